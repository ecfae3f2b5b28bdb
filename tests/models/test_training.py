"""Training, resuming and loading of every registered family."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, KEY, assert_close, class_of, options_of

import worldmodel
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.runs.checkpoints import digest, named_leaves
from worldmodel.system.signals import Preempted
from worldmodel.training.dispatch import stage_keys
from worldmodel.training.learners import trained_modules

pytestmark = pytest.mark.slow

IMAGES = DataSpec({"image": ObservationSpec((16, 16, 1), "uint8")}, ActionSpec(True, 3))
TRAINED = [(name, "vector") for name in FAMILIES if class_of(name).trainable]
TRAINED += [
    (name, "image")
    for name in FAMILIES
    if class_of(name).pretrained_modules(options_of(name), IMAGES)
]


@pytest.fixture(scope="module", params=TRAINED, ids="-".join)
def trained(
    request: pytest.FixtureRequest,
    subjects: Callable,
    train_subject: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A model trained for four updates."""
    return train_subject(subjects(*request.param), tmp_path_factory.mktemp("runs"))


def test_a_stage_is_compiled_once_and_writes_its_losses(trained: Any) -> None:
    assert trained.learner.traces == 1
    rows = [json.loads(line) for line in trained.directory.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(np.isfinite(row["loss/total"]) for row in rows)


def test_training_changes_every_parameter(trained: Any) -> None:
    initial = trained.learner.init(stage_keys(0, "world_model").init)
    before, after = named_leaves(initial.params), named_leaves(trained.state.params)
    unchanged = {name for name in before if np.array_equal(before[name], after[name])}
    assert unchanged == {f"model.{name}" for name in trained.subject.facts.untrained}


def test_a_resumed_run_is_bit_identical(
    trained: Any, train_subject: Callable, tmp_path: Path
) -> None:
    with pytest.raises(Preempted, match="saved at step 2"):
        train_subject(trained.subject, tmp_path, stop=True)
    assert digest(train_subject(trained.subject, tmp_path).state) == digest(trained.state)


def test_a_loaded_model_predicts_like_the_trained_one(trained: Any) -> None:
    loaded = worldmodel.load(trained.directory.path)
    model = trained_modules(trained.learner, trained.state)["model"]
    window = trained.subject.window
    arguments = (window.observation, window.action, 3, 3, 2, KEY)
    expected = replace(loaded, model=model).predict(*arguments)
    assert_close(loaded.predict(*arguments), expected, tolerance=0)
