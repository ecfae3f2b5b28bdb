"""Inputs and outputs in npy files: records become episodes, and mismatches are reported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.records import RecordsData, read
from worldmodel.data.sources import parse_source
from worldmodel.errors import DataError

MIRROR = Path(__file__).parents[2].parent / "shared/data/sysid/fine_steering_mirror"
RNG = np.random.default_rng(0)


def logs(folder: Path, **changes: Any) -> Trajectories:
    return load(RecordsData(path=str(folder), cache="never", **changes))


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_realizations_are_records_and_their_periods_are_joined(tmp_path: Path):
    u, y = RNG.normal(size=(10, 2, 3, 4)), RNG.normal(size=(10, 5, 3, 4))
    found = logs(saved(tmp_path, u_a=u, y_a=y))
    assert found.lengths.tolist() == [40] * 3 and found.names[1] == "y_a.npy record 1"
    for record in range(3):
        rows = slice(40 * record, 40 * record + 40)
        expected = np.concatenate([y[:, :, record, period] for period in range(4)])
        np.testing.assert_array_equal(
            found.observations["observation"][rows], expected.astype(np.float32)
        )
        expected = np.concatenate([u[:, :, record, period] for period in range(4)])
        np.testing.assert_array_equal(found.actions[rows][:-1], expected[:-1].astype(np.float32))
    assert found.rewards is None and not found.terminated.any()


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 1, 1)])
def test_trailing_axes_may_be_omitted(tmp_path: Path, shape: tuple[int, ...]):
    u, y = np.arange(8.0), np.arange(8.0) ** 2
    found = logs(saved(tmp_path, u_a=u.reshape(shape), y_a=y.reshape(shape)))
    np.testing.assert_array_equal(found.observations["observation"][:, 0], y)
    np.testing.assert_array_equal(found.actions[:-1, 0], u[:-1])


def test_with_feedthrough_an_input_is_the_action_of_the_previous_step(tmp_path: Path):
    found = logs(saved(tmp_path, u_a=np.arange(8.0), y_a=np.zeros(8)), feedthrough=True)
    np.testing.assert_array_equal(found.actions[:, 0], [1, 2, 3, 4, 5, 6, 7, 0])


def test_files_are_paired_in_order_and_chosen_by_pattern(tmp_path: Path):
    arrays = {f"{kind}_{name}": np.full(5, n) for n, name in enumerate("ab") for kind in "uy"}
    saved(tmp_path, **arrays)
    found = logs(tmp_path)
    assert found.names == ("y_a.npy", "y_b.npy")
    np.testing.assert_array_equal(found.actions[[0, 5], 0], [0, 1])
    one = logs(tmp_path, inputs="u_b.npy", outputs="y_b.npy")
    assert one.names == ("y_b.npy",)
    assert parse_source(str(tmp_path)).format == "records"


@pytest.mark.parametrize(
    ("inputs", "outputs"), [("*_in.npy", "*_out.npy"), ("[ab]_in.npy", "?_out.npy")]
)
def test_other_patterns_pair_by_what_their_wildcards_stand_for(
    tmp_path: Path, inputs: str, outputs: str
):
    kinds = {"in": 0.0, "out": 5.0}
    saved(
        tmp_path,
        **{f"{c}_{k}": np.full(5, v + n) for n, c in enumerate("ab") for k, v in kinds.items()},
    )
    found = logs(tmp_path, inputs=inputs, outputs=outputs)
    assert found.actions[[0, 5], 0].tolist() == [0, 1]
    assert found.observations["observation"][[0, 5], 0].tolist() == [5, 6]


INVALID: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "no inputs": ({"y_a": np.zeros(5)}, "data.inputs=u_*.npy: none"),
    "one too many": (
        {"u_a": np.zeros(5), "y_a": np.zeros(5), "y_b": np.zeros(5)},
        "data.outputs=y_*.npy: y_a.npy, y_b.npy",
    ),
    "names": (
        {"u_a": np.zeros(5), "u_b": np.zeros(5), "y_b": np.zeros(5), "y_c": np.zeros(5)},
        "do not match",
    ),
    "numbers": (
        {f"{k}{n}": np.zeros(5) for k, n in (("u_", 1), ("u_", 10), ("y_", "01"), ("y_", 10))},
        "data.outputs=y_*.npy: y_01.npy, y_10.npy",
    ),
    "samples": (
        {"u_a": np.zeros((5, 1, 2)), "y_a": np.zeros((6, 1, 2))},
        "has 2 records of 6 samples, its inputs u_a.npy have 2 of 5",
    ),
    "records": ({"u_a": np.zeros((5, 1, 2)), "y_a": np.zeros((5, 1))}, "has 1 records of 5"),
    "axes": ({"u_a": np.zeros((5,) * 5), "y_a": np.zeros(5)}, "accepted: (samples,) to"),
    "words": ({"u_a": np.array(["a"]), "y_a": np.zeros(5)}, "is not an array of numbers"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_mismatches_are_reported(tmp_path: Path, kind: str):
    arrays, expected = INVALID[kind]
    with pytest.raises(DataError, match=re.escape(expected)):
        logs(saved(tmp_path, **arrays))


def test_an_unreadable_file_can_be_skipped(tmp_path: Path):
    saved(tmp_path, u_a=np.zeros(5), u_b=np.zeros(5), y_b=np.zeros(5))
    (tmp_path / "y_a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"y_a\.npy: cannot be read"):
        logs(tmp_path)
    assert logs(tmp_path, on_invalid_episode="skip").names == ("y_b.npy",)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path):
    saved(tmp_path, u_a=np.zeros(5))
    with pytest.raises(DataError, match="is a file; accepted: .*a folder"):
        logs(tmp_path / "u_a.npy")


@pytest.mark.skipif(not MIRROR.is_dir(), reason="the folder of real datasets is missing")
def test_records_of_a_real_mirror_are_read():
    names = {"inputs": "u_*_test.npy", "outputs": "y_*_test.npy"}
    options = RecordsData(path=str(MIRROR), cache="never", **names)
    found = load(options)
    assert found.lengths.tolist() == [2 * 8192] * 9
    real = np.load(MIRROR / "y_300mV_test.npy")
    last = found.observations["observation"][found.last_steps[-1]]
    np.testing.assert_allclose(last, real[-1, :, -1, -1], rtol=1e-6)
    assert len(read(options).files) == 6
