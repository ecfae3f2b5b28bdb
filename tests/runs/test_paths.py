"""A run may lie at any path that the file system accepts, and stays whole where it is moved."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worldmodel.runs import integrity
from worldmodel.runs.checkpoints import Checkpoints, digest

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


def state(step: int) -> dict:
    return {"kernel": jnp.arange(6.0).reshape(2, 3) * step, "step": jnp.int32(step)}


@given(NAMES.filter(lambda name: name not in (".", "..") and len(name.encode()) < 256))
@example("runs [v2]*?")
@example("back\\slash")
@example("gs:")
@example("${name} 'a' \"b\" %41 | {c} #d")
@example("two\nlines\x1b[31m")
@settings(max_examples=25)
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
