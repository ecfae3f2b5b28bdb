"""Checkpoints contain the whole state, and refuse a state that does not fit."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel.errors import CheckpointError
from worldmodel.runs.checkpoints import Checkpoints, digest, named_leaves


def state(scale: float = 1.0) -> dict:
    return {
        "params": {"kernel": jnp.arange(6.0).reshape(2, 3) * scale, "bias": jnp.ones(3) * scale},
        "step": jnp.asarray(7, jnp.int32),
    }


def test_a_state_is_restored_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "stage")
    checkpoints.save(7, state(1 / 3), {"pending": {"sums": {"loss": 0.1}, "count": 3}})
    checkpoints.wait()
    restored, meta = checkpoints.restore(7, state(0.0))
    assert digest(restored) == digest(state(1 / 3))
    assert meta["pending"] == {"sums": {"loss": 0.1}, "count": 3}
    checkpoints.close()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "stage", max_to_keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"params": {"kernel": jnp.zeros((2, 4)), "bias": jnp.ones(3)}}, r"kernel: \(2, 3\)"),
        ({"params": {"kernel": jnp.zeros((2, 3))}}, "params.bias: only in"),
        ({**state(), "target_params": jnp.zeros(2)}, "target_params: missing"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_refused_and_unchanged(
    tmp_path: Path, other: dict, words: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "stage")
    checkpoints.save(7, state(), {})
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=f"another model[\\s\\S]*{words}"):
        checkpoints.restore(7, other)
    assert digest(checkpoints.restore(7, state(0.0))[0]) == digest(state())
    checkpoints.close()


def test_the_error_for_a_missing_step_names_the_existing_ones(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "stage")
    checkpoints.save(7, state(), {})
    checkpoints.wait()
    with pytest.raises(CheckpointError, match=r"no checkpoint 8; existing: \[7\]"):
        checkpoints.restore(8, state())
    checkpoints.close()


def test_the_digest_depends_on_every_bit_name_and_type() -> None:
    base = digest(state())
    assert base == digest(state())
    changed = state()
    changed["params"]["bias"] = changed["params"]["bias"].at[0].set(np.nextafter(np.float32(1), 2))
    assert digest(changed) != base
    assert digest({"a": jnp.zeros(2)}) != digest({"b": jnp.zeros(2)})
    assert digest({"a": jnp.zeros(2)}) != digest({"a": jnp.zeros(2, jnp.int32)})
    assert sorted(named_leaves(state())) == ["params.bias", "params.kernel", "step"]
