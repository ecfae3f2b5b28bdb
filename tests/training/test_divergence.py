"""Divergence: which windows were in the batch, and how a stage rolls back to a checkpoint."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import linear_plan, random_trajectories, read_rows, train_stage

from worldmodel.data.trajectories import Trajectories, split
from worldmodel.errors import DivergenceError
from worldmodel.runs.checkpoints import digest
from worldmodel.system.signals import Preempted
from worldmodel.training.divergence import Diverged, check_finite

BAD = 7  # the episode with values that are finite, but not when squared
PLAN = linear_plan(steps=12, steps_per_dispatch=2, log_every=2, checkpoint_every=4)
ROLLBACK = replace(PLAN, rollback=True)


def dataset(every: bool = False) -> Trajectories:
    """Episodes of one window each; one is extreme, or `every` one."""
    trajectories = random_trajectories()
    values = trajectories.observations["x"].reshape(-1, PLAN.window, 2)
    values[slice(None) if every else BAD, 3, 0] = 3e38
    return trajectories


def test_the_first_step_that_is_not_finite_is_named_by_its_loss() -> None:
    values = np.array([1.0, 2.0, np.inf, np.nan])
    metrics = {"a": np.array([1.0, 2.0, 3.0, np.nan]), "b": values, "loss/total": values}
    with pytest.raises(Diverged, match="loss/total is inf at step 103"):
        check_finite(104, metrics)
    check_finite(104, {"a": np.ones(4)})


def test_a_divergence_names_the_windows_of_the_batch(tmp_path: Path) -> None:
    trajectories, _ = split(dataset(), 0.2)
    with pytest.raises(DivergenceError, match="loss/total is inf at step") as raised:
        train_stage(PLAN, tmp_path, trajectories)
    assert "from random.npz:" in str(raised.value)
    assert re.search(rf"\n  episode {BAD}, \w+ 0-5", str(raised.value))
    (event,) = read_rows(tmp_path, "divergences.jsonl")
    assert len(event["windows"]) == PLAN.batch_size and event["outcome"] == "stopped"
    assert event["checkpoint"] == max(range(0, event["step"], 4))
    assert not (tmp_path / "checkpoints" / "world_model" / str(event["step"])).exists()


def test_a_rollback_continues_with_other_batches_and_resumes_in_the_same_bits(
    tmp_path: Path,
) -> None:
    whole = train_stage(ROLLBACK, tmp_path / "whole", dataset())
    events = read_rows(tmp_path / "whole", "divergences.jsonl")
    assert [event["outcome"] for event in events] == ["rolled back"] * len(events) and events
    assert np.isfinite(whole.params["line"]["slope"])
    steps = [row["step"] for row in read_rows(tmp_path / "whole")]
    assert steps == list(range(2, PLAN.steps + 1, 2))

    parts, starts, resumed = tmp_path / "parts", 1, None
    while resumed is None:
        try:
            resumed = train_stage(ROLLBACK, parts, dataset(), stop=True)
        except Preempted:
            starts += 1
    assert starts >= PLAN.steps // 2 and digest(resumed) == digest(whole)
    losses = [
        [(row["step"], row["loss/total"]) for row in read_rows(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_training_stops_where_rollbacks_do_not_help(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="after 3 rollbacks"):
        train_stage(ROLLBACK, tmp_path, dataset(every=True))
    events = read_rows(tmp_path, "divergences.jsonl")
    assert [event["outcome"] for event in events] == ["rolled back"] * 3 + ["stopped"]
    batches = [tuple(event["windows"]) for event in events]
    assert len(set(batches)) == 4  # other ones each time
