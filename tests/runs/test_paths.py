"""A run may lie at any path that the file system accepts, and stays whole where it is moved."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_runs import (
    linear_plan,
    random_trajectories,
    read_rows,
    small_config,
    train_stage,
)

from worldmodel.config import LoggingOptions
from worldmodel.errors import ConfigError, StorageError
from worldmodel.runs import integrity
from worldmodel.runs.checkpoints import Checkpoints, digest
from worldmodel.runs.directory import RunDirectory, check_resumable
from worldmodel.status.heartbeat import Heartbeat
from worldmodel.system.signals import StopRequest
from worldmodel.training.dispatch import make_stage
from worldmodel.training.loop import RunContext, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


def state(step: int) -> dict:
    return {"kernel": jnp.arange(6.0).reshape(2, 3) * step, "step": jnp.int32(step)}


@given(NAMES.filter(lambda name: name not in (".", "..") and len(name.encode()) < 256))
@example("runs [v2]*?")
@example("back\\slash")
@example("gs:")
@example("${name} 'a' \"b\" %41 | {c} #d")
@example("two\nlines\x1b[31m")
@settings(max_examples=10)
def test_checkpoints_are_read_from_any_path(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder) / name / "checkpoints" / "stage"
        checkpoints = Checkpoints(stage)
        checkpoints.save(1, state(1), {})
        checkpoints.close()
        integrity.verify(stage / "1")
        again = Checkpoints(stage)
        assert digest(again.restore(1, state(0))[0]) == digest(state(1))
        again.close()


def test_a_checkpoint_that_is_being_written_is_whole_where_its_folder_is_moved(
    tmp_path: Path,
) -> None:
    stage, moved = tmp_path / "run" / "stage", tmp_path / "moved"
    checkpoints = Checkpoints(stage)
    checkpoints.save(1, state(1), {})
    shutil.move(stage.parent, moved)
    checkpoints.save(2, state(2), {})
    checkpoints.close()
    assert not stage.parent.exists()
    again = Checkpoints(moved / "stage", read_only=True)
    assert again.steps() == [1, 2]
    assert digest(again.restore(2, state(0))[0]) == digest(state(2))
    again.close()


def move(run: Path) -> None:
    run.rename(run.with_name("moved"))


def delete(run: Path) -> None:
    while run.exists():  # the run writes on meanwhile
        shutil.rmtree(run, ignore_errors=True)


@pytest.mark.parametrize("change", [move, delete])
def test_a_run_whose_folder_is_moved_or_deleted_stops_and_can_be_resumed_there(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    run, endless = tmp_path / "run", linear_plan(10**6, log_every=5, checkpoint_every=5)
    run.mkdir()
    directory = RunDirectory(run, opened=run.stat())

    def change_once_there_is_a_checkpoint() -> None:
        while directory.latest_checkpoint() is None:
            time.sleep(0.01)
        change(run)

    request, thread = StopRequest(), threading.Thread(target=change_once_there_is_a_checkpoint)
    wandb, heartbeat = WandB(LoggingOptions(wandb="disabled"), run, {}), Heartbeat(directory, 0.01)
    context = RunContext(directory, all_devices(), request, wandb, heartbeat=heartbeat)
    thread.start()
    with pytest.raises(StorageError, match=rf"{run}\S* (was moved or deleted|cannot be written)"):
        run_stage(make_stage(endless, random_trajectories(), endless.build_learner()), context)
    thread.join()
    heartbeat.end("failed")
    request.close()
    assert not run.exists()
    if (moved := tmp_path / "moved").exists():
        last = integrity.checkpoint_steps(moved / "checkpoints" / "world_model")[-1]
        train_stage(replace(endless, steps=last + 10), moved, random_trajectories())
        assert [row["step"] for row in read_rows(moved)] == list(range(5, last + 11, 5))


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 256, "too long"), ("/".join(["x" * 99] * 41), "too long"), ("\udce9", "UTF-8")],
)
def test_a_path_that_cannot_be_used_to_the_end_is_refused_first(
    tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_resumable(replace(small_config(), runs_dir=str(tmp_path / name)))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_first(
    small_disk: Path, remount: Callable[[str], None]
) -> None:
    config = replace(small_config(), runs_dir=str(small_disk / "runs"))
    check_resumable(config)
    remount("ro")
    with pytest.raises(StorageError, match="test cannot be written: Read-only file system"):
        check_resumable(config)
