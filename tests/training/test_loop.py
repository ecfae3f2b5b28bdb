"""The training loop compiles once, resumes in the same bits, and stops when it diverges."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from small_runs import (
    STAGE,
    LinearLearner,
    linear_plan,
    random_trajectories,
    read_rows,
    small_config,
    small_plan,
    train_stage,
)

from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DivergenceError
from worldmodel.runs.checkpoints import digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.training.dispatch import largest_common_divisor, stage_keys


def train(
    folder: Path, trajectories: Trajectories, steps: int = STAGE.steps, loader: str = "device"
) -> dict:
    """Trains the stage of a world model; returns its summary."""
    plan = small_plan(trajectories, small_config(stage=replace(STAGE, steps=steps)))
    state = train_stage(replace(plan, loader=loader), folder, trajectories)
    summary = RunDirectory(folder).summary()["stages"]["world_model"]
    assert summary["state_sha256"] == digest(state)
    return summary


def test_a_stage_compiles_once_and_in_two_parts_ends_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        whole = train(tmp_path / "whole", pendulum)
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(dispatch)")]
    assert len(compiled) == 1 and whole["last_step"] == 20
    assert [row["step"] for row in read_rows(tmp_path / "whole")] == [10, 20]

    train(tmp_path / "parts", pendulum, steps=10)
    assert train(tmp_path / "parts", pendulum)["state_sha256"] == whole["state_sha256"]
    clocks = ("time", "updates_per_second", "data_wait_fraction")
    rows = [read_rows(tmp_path / name) for name in ("whole", "parts")]
    for a, b in zip(*rows, strict=True):
        assert all(a[name] == b[name] for name in a if name not in clocks)


@pytest.mark.slow
def test_streamed_batches_train_the_same_model_and_resume_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    train(tmp_path / "device", pendulum)
    whole = train(tmp_path / "host", pendulum, loader="host")
    train(tmp_path / "parts", pendulum, steps=10, loader="host")
    parts = train(tmp_path / "parts", pendulum, loader="host")
    assert parts["state_sha256"] == whole["state_sha256"]
    rows = [read_rows(tmp_path / name) for name in ("device", "host")]
    for a, b in zip(*rows, strict=True):
        assert b["loss/total"] == pytest.approx(a["loss/total"], rel=1e-5)


def test_divergence_stops_the_stage_names_the_step_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    trajectories = random_trajectories()
    plan = linear_plan(steps=20, steps_per_dispatch=5, log_every=10, checkpoint_every=10)
    train_stage(replace(plan, steps=10), tmp_path, trajectories)
    diverging = LinearLearner(learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"at step 1[1-9].*\n?.*last good checkpoint is 10"):
        train_stage(plan, tmp_path, trajectories, learner=diverging)
    assert (tmp_path / "checkpoints" / "world_model" / "10").is_dir()
    assert int(train_stage(plan, tmp_path, trajectories).step) == 20


def test_updates_per_dispatch_divide_every_interval() -> None:
    assert largest_common_divisor((2500, 100, 1000, 0), limit=25) == 25
    assert largest_common_divisor((1010, 100, 1000, 0), limit=25) == 10
    assert largest_common_divisor((997, 100, 1000, 0), limit=25) == 1


def test_stages_and_seeds_have_independent_keys() -> None:
    data = [
        jax.random.key_data(key).tolist()
        for seed in (0, 1)
        for name in ("world_model", "policy")
        for key in stage_keys(seed, name)
    ]
    assert len({tuple(d) for d in data}) == 8
