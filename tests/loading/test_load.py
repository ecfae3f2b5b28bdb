"""Wrong calls of `load` and of what a run offers: refused in words before JAX sees them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldmodel
from worldmodel.config import Config
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import ArgumentError, ConfigError, DataError, UserError
from worldmodel.loading import LoadedRun
from worldmodel.play.command import run as play
from worldmodel.runs.directory import RunDirectory
from worldmodel.runs.origin import is_own

SPEC = DataSpec({"motion": ObservationSpec((2,), "float32")}, ActionSpec(False, 1, (-1.0,), (1.0,)))


def run_of(spec: DataSpec) -> LoadedRun:
    """A run without a model: what is refused is refused before one is needed."""
    return LoadedRun(RunDirectory(Path("run")), Config(), spec, "policy", 1, None, None, None)


MOTION, ACTIONS = np.zeros((2, 8, 2), np.float32), np.zeros((2, 8, 1), np.float32)
NAN = np.where(np.arange(8)[:, None] == 3, np.nan, MOTION)  # at step 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"observations": {"motion": NAN}}, r"'motion': nan at \(0, 3, 0\); accepted: finite"),
        ({"observations": {"motion": MOTION + np.inf}}, "'motion': inf at"),
        ({"observations": {"motion": MOTION.astype(float) + 1e300}}, r"'motion': 1e\+300 at"),
        ({"actions": ACTIONS * np.nan}, r"actions: nan at \(0, 0, 0\)"),
        (
            {"observations": {"motion": MOTION[:0]}, "actions": ACTIONS[:0]},
            r"actions: .*\(0, 6, 1\)",
        ),
    ],
)
def test_a_prediction_needs_finite_values(changed: dict[str, Any], message: str) -> None:
    valid = {"observations": {"motion": MOTION}, "actions": ACTIONS, "context": 4, "horizon": 3}
    with pytest.raises(ArgumentError, match=message):
        run_of(SPEC).predict(**valid | changed)


@pytest.mark.parametrize("path", [3, None, ["run"], b"run", "", "a\0b", "a" * 5000, "nowhere"])
def test_what_is_no_run_is_refused(path: Any) -> None:
    with pytest.raises(UserError, match="accepted: the folder of a run|is not a run"):
        worldmodel.load(path)


@pytest.mark.parametrize("checkpoint", [None, -1, 1.5, True, ["last"]])
def test_what_is_no_checkpoint_is_refused(checkpoint: Any) -> None:
    with pytest.raises(ArgumentError, match="checkpoint: .*; accepted: an integer"):
        worldmodel.load("run", checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs: 0; accepted: an integer, at least 1"),
        ({"num_envs": "2"}, "num_envs: '2'"),
        ({"num_envs": 2.5}, r"num_envs: 2\.5"),
        ({"num_envs": [2]}, r"num_envs: \[2\]"),
        ({"contxt": 3}, "dream.contxt: no such option .did you mean 'dream.context'"),
        ({"context": 0}, "dream.context=0: accepts integer, 1 or more"),
        ({"context": "a"}, "dream.context=a: accepts integer"),
        ({"time_limit": 2**40}, "dream.time_limit=1099511627776: accepts"),
        ({"penalty": None}, "dream.penalty=null: accepts one of"),
        ({"penalty_scale": float("nan")}, "dream.penalty_scale=nan: accepts number, 0 or more"),
        ({"truncation_quantile": 2}, "dream.truncation_quantile=2"),
    ],
)
def test_a_wrong_dream_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_of(SPEC).dream(**options)


def test_a_run_from_elsewhere_is_loaded_and_its_data_are_not(
    smoke_run: Path, tmp_path: Path
) -> None:
    assert is_own(smoke_run, RunDirectory(smoke_run).config())
    copy = shutil.copytree(smoke_run, tmp_path / "run")
    (copy / "origin").unlink()
    loaded = worldmodel.load(copy)
    assert not loaded.trusted and loaded.config.data.cache_dir == "datasets"
    with pytest.raises(DataError, match="names is not read unasked"):
        loaded.dream()
    with pytest.raises(DataError, match="names is not read unasked"):
        play([f"run={copy}", "episode=0"])
    assert worldmodel.load(copy, allow_code=True).dataset().fingerprint()


def test_a_run_from_elsewhere_gives_its_environment_no_arguments_unasked(
    smoke_run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "run")
    (copy / "origin").unlink()
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(
        text.replace("environment_options: {}", "environment_options: {g: 9.81}", 1)
    )
    with pytest.raises(
        ConfigError, match=r"data\.environment_options={g: 9.81}: .*allow_code=true"
    ):
        worldmodel.load(copy)
    assert worldmodel.load(copy, allow_code=True).config.data.environment_options == {"g": 9.81}
