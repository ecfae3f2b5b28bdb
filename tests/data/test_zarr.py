"""Replay buffers in zarr: every value survives, in either version of the format and as a zip."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_files import zarr_buffer
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Trajectories, load
from worldmodel.data.readers.zarr import ZarrData, read
from worldmodel.data.sources import parse_source
from worldmodel.errors import DataError

pytest.importorskip("zarr", reason="the extra `zarr` is not installed")

Arrays = dict[str, Any]


def buffer(lengths: list[int], **changes: Any) -> Arrays:
    """PushT's arrays, whose rows encode their place."""
    rows = [(e, t) for e, count in enumerate(lengths) for t in range(count)]
    place = np.array(rows, "f4")
    image = np.zeros((len(rows), 4, 4, 3), "f4") + place[:, 1, None, None, None]
    arrays = {"state": place, "img": image, "action": place[:, ::-1] + 1}
    arrays |= {"keypoint": np.zeros((len(rows), 3, 2), "f4")} | changes
    data = {f"data/{key}": value for key, value in arrays.items() if value is not None}
    return data | {"meta/episode_ends": np.cumsum(lengths)}


def load_store(path: Path, **options: Any) -> Trajectories:
    return load(ZarrData(path=str(path), cache="never", **options))


@settings(max_examples=8, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    version=st.sampled_from([2, 3]),
    zipped=st.booleans(),
    chunk=st.integers(1, 12),
)
def test_every_value_survives(
    lengths: list[int],
    version: int,
    zipped: bool,
    chunk: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    arrays, place = buffer(lengths), tmp_path_factory.mktemp("buffer") / "pusht.zarr"
    zarr_buffer(str(place), arrays, chunk, zarr_format=version)
    if zipped:
        place = Path(shutil.make_archive(str(place), "zip", place))
    episodes: list[Any] = list(read(ZarrData(path=str(place))).episodes)
    ends = arrays["meta/episode_ends"]
    assert len(episodes) == len(lengths)
    for episode, end, count in zip(episodes, ends, lengths, strict=True):
        rows = slice(end - count, end)
        for key in ("state", "img", "keypoint"):
            found = episode.observations[key]
            assert (
                found.dtype == np.float32
            )  # images of 0 to 255 as floats are handed on as they are
            np.testing.assert_array_equal(found, arrays[f"data/{key}"][rows])
        np.testing.assert_array_equal(episode.actions, arrays["data/action"][rows])
        assert not episode.final_logged and not episode.terminated and episode.rewards is None


def test_a_store_is_loaded_with_every_action(tmp_path: Path) -> None:
    zarr_buffer(str(tmp_path / "a.zarr"), buffer([5, 3], img=None), zarr_format=2)
    assert parse_source(str(tmp_path / "a.zarr")).format == "zarr"
    logs = load_store(tmp_path / "a.zarr")
    assert logs.num_transitions == 8
    assert load_store(tmp_path).num_transitions == 8  # a folder of stores


def test_rewards_marks_and_time_are_read_by_their_names(tmp_path: Path) -> None:
    ends = np.arange(8) == 4
    arrays = buffer(
        [5, 3], img=None, reward=np.arange(8.0), terminals=ends, timestamp=np.arange(8.0)
    )
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    logs = load_store(tmp_path / "a.zarr")
    assert logs.terminated.tolist() == [True, False]
    assert set(logs.observations) == {"state", "keypoint"}
    assert logs.rewards is not None and logs.rewards[:5].tolist() == [0, 1, 2, 3, 4]


def test_chunks_of_the_fill_value_alone_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = buffer([6, 6], state=np.ones((12, 2), "f4"), img=None, keypoint=None)
    zarr_buffer(str(tmp_path / "a.zarr"), arrays, zarr_format=2)
    (tmp_path / "a.zarr" / "data" / "state" / "1.0").unlink()
    with caplog.at_level(logging.WARNING):
        logs = load_store(tmp_path / "a.zarr")
    assert "1 of 3 chunks of data/state are not stored" in caplog.text
    assert (logs.observations["state"][4:6] == 0).all()


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([5, 9], "up to 9; accepted: ascending integers (episodes,), up to the 8 rows"),
        ([5, 5, 8], "ascending"),
        ([0, 8], "ascending"),
        ([-1, 8], "ascending"),
        ([5.0, 8.0], "float64"),
        (np.zeros(0, int), "ascending"),
    ],
)
def test_ends_that_do_not_fit_are_refused(tmp_path: Path, ends: Any, message: str) -> None:
    arrays = buffer([5, 3]) | {"meta/episode_ends": np.asarray(ends)}
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    with pytest.raises(DataError) as refusal:
        load_store(tmp_path / "a.zarr")
    assert message in str(refusal.value) and "a.zarr" in str(refusal.value)


def test_rows_after_the_last_episode_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = buffer([5, 3], img=None) | {"meta/episode_ends": np.array([5, 7])}
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    with caplog.at_level(logging.WARNING):
        assert load_store(tmp_path / "a.zarr").num_transitions == 7
    assert "rows after the last episode are left out" in caplog.text


def test_a_codec_that_runs_code_is_refused(tmp_path: Path) -> None:
    zarr_buffer(str(tmp_path / "a.zarr"), buffer([5, 3]), zarr_format=2)
    file = tmp_path / "a.zarr" / "data" / "state" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"filters": [{"id": "pickle"}]}))
    with pytest.raises(DataError, match="stored by the codec 'pickle'; accepted: adler32"):
        load_store(tmp_path / "a.zarr")


def test_actions_of_another_name_are_chosen_by_their_role(tmp_path: Path) -> None:
    zarr_buffer(str(tmp_path / "a.zarr"), buffer([5, 3], action=None, img=None))
    with pytest.raises(DataError, match="data.roles={NAME: action}"):
        load_store(tmp_path / "a.zarr")
    logs = load_store(tmp_path / "a.zarr", roles={"state": "action"})
    assert set(logs.observations) == {"keypoint"} and logs.actions.shape[1] == 2


def test_observations_that_are_not_chosen_are_not_opened(tmp_path: Path) -> None:
    zarr_buffer(str(tmp_path / "a.zarr"), buffer([5, 3]), zarr_format=2)
    file = tmp_path / "a.zarr" / "data" / "img" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"filters": [{"id": "pickle"}]}))
    logs = load_store(tmp_path / "a.zarr", observations=["state"])
    assert set(logs.observations) == {"state"}


def test_arrays_of_different_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    arrays = buffer([5, 3], img=None, state=np.zeros((10, 2), "f4"))
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    with pytest.raises(DataError, match=r"rows \(one more in each episode.*: action 8, keypoint 8"):
        load_store(tmp_path / "a.zarr")
    assert load_store(tmp_path / "a.zarr", roles={"state": "ignore"}).num_transitions == 8


def test_marks_inside_an_episode_are_refused(tmp_path: Path) -> None:
    arrays = buffer([5, 3], img=None, terminals=np.arange(8) == 5)
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    with pytest.raises(DataError, match="data/terminals marks 1 rows that are not the last"):
        load_store(tmp_path / "a.zarr")
    assert not load_store(tmp_path / "a.zarr", roles={"terminals": "ignore"}).terminated.any()


def test_a_store_without_ends_and_next_observations_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = buffer([5, 3], img=None, s2=np.zeros((8, 2), "f4"))
    zarr_buffer(str(tmp_path / "a.zarr"), arrays)
    with caplog.at_level(logging.WARNING):
        load_store(tmp_path / "a.zarr", roles={"s2": "next_observation"})
    assert "next observations are not read (s2)" in caplog.text
    shutil.rmtree(tmp_path / "a.zarr" / "meta")
    with pytest.raises(DataError, match="is a store of zarr without meta/episode_ends"):
        load_store(tmp_path / "a.zarr")
