"""LeRobotDatasets of versions 2.1 and 3.0."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_sets import CAMERA, episode, frame, write_set, write_video
from pyarrow import parquet

from worldmodel.data import Trajectories, load
from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.data.readers.lerobot import LeRobotData, read
from worldmodel.data.sources import parse_source
from worldmodel.errors import DataError

VERSIONS = ("v2.1", "v3.0")


def options(root: Path | str, **changes: Any) -> LeRobotData:
    return LeRobotData(path=str(root), **{"cache": "never", **changes})


def episodes(root: Path, **changes: Any) -> list[Episode]:
    found = list(read(options(root, **changes)).episodes)
    read_whole = [e for e in found if isinstance(e, Episode)]
    assert len(read_whole) == len(found), found
    return read_whole


def loaded(root: Path, **changes: Any) -> Trajectories:
    return load(options(root, **changes))


def error(root: Path, **changes: Any) -> str:
    with pytest.raises(DataError) as caught:
        loaded(root, **changes)
    return str(caught.value)


def marks(length: int, last: bool = True, **more: Any) -> dict[str, Any]:
    done = np.zeros(length, bool)
    done[-1] = last
    return {"next.done": done, "next.reward": np.arange(length, dtype=np.float32), **more}


# ------------------------------------------------------------------------------- rows and episodes


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.sampled_from(VERSIONS),
    st.integers(1, 3),
)
def test_every_row_is_a_transition(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], version: str, per_file: int
):
    made = [episode(n, i) for i, n in enumerate(lengths)]
    root = write_set(tmp_path_factory.mktemp("t") / "set", version, made, per_file=per_file)
    found = episodes(root)
    assert [len(e.actions) for e in found] == lengths
    for one, expected in zip(found, made, strict=True):
        np.testing.assert_array_equal(one.observations["state"], expected["observation.state"])
        np.testing.assert_array_equal(one.actions, expected["action"])
        assert not one.final_logged and not one.terminated and one.rewards is None


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_of_a_video_belong_to_their_rows(tmp_path: Path, version: str):
    lengths = [4, 6, 3, 5, 2]
    root = write_set(
        tmp_path / "set", version, [episode(n, i) for i, n in enumerate(lengths)], video=True
    )
    for number, one in enumerate(episodes(root)):
        frames = one.observations["images.top"].astype(int)
        assert frames.shape == (lengths[number], 32, 32, 3)
        for step, image in enumerate(frames):
            assert np.abs(image - frame(number, step)).mean() < 3


@pytest.mark.parametrize("version", VERSIONS)
def test_encoded_images_are_decoded(tmp_path: Path, version: str):
    root = write_set(tmp_path / "set", version, [episode(4), episode(3, 1)], still=True)
    logs = loaded(root)
    begin = int(logs.offsets[1])
    np.testing.assert_array_equal(logs.observations["images.wrist"][begin + 2], frame(1, 2))


def test_cameras_that_are_not_chosen_are_not_decoded(tmp_path: Path):
    root = write_set(tmp_path / "set", "v3.0", [episode(4)], video=True)
    (video,) = root.rglob("*.mp4")
    video.write_bytes(b"damaged")
    assert list(loaded(root, observations=["state"]).observations) == ["state"]
    assert str(video) in error(root)
    assert "no observation 'wrist'" in error(root, observations=["wrist"])


def test_rewards_actions_and_types_are_kept(tmp_path: Path):
    made = episode(5, action=np.array([0, 2, 1, 2, 0]), **marks(5, last=False))
    made["observation.position"] = 5e6 + np.arange(5)[:, None] / 64
    (one,) = episodes(write_set(tmp_path / "set", "v3.0", [made]))
    assert one.observations["position"].dtype == np.float64
    np.testing.assert_array_equal(one.observations["position"], made["observation.position"])
    assert one.actions.dtype.kind == "i" and one.actions.tolist() == [0, 2, 1, 2, 0]
    np.testing.assert_array_equal(np.ravel(one.rewards), range(5))


def test_a_name_with_its_prefix_is_suggested_without(tmp_path: Path):
    root = write_set(tmp_path / "set", "v3.0", [episode(4)])
    assert "did you mean 'state'" in error(root, observations=["observation.state"])


def test_a_file_without_a_mark_is_an_error_of_its_episode(tmp_path: Path):
    made = [episode(4, i, **marks(4, last=i == 0)) for i in range(3)]
    root = write_set(tmp_path / "set", "v2.1", made)
    file = root / "data/chunk-000/episode_000002.parquet"
    parquet.write_table(parquet.read_table(file).drop_columns(["next.done"]), file)
    found = list(read(options(root, roles={"next.done": "terminal"})).episodes)
    assert [type(e) for e in found[:2]] == [Episode, Episode]
    assert isinstance(found[2], UnreadableEpisode)
    assert "next.done" in found[2].error and str(file) in found[2].error


@pytest.mark.parametrize(
    ("column", "values", "fps", "message"),
    [
        ("frame_index", [0, 1, 2, 5, 6], 10, "episode 1: from 2 to 5 at step 2"),
        ("timestamp", [0.0, 0.1, 1.1, 1.2, 1.3], 10, "episode 1: 1 s after step 1"),
        ("timestamp", [0.0, 0.1, 0.2, 0.3, 0.4], 30, "fps=30 and the timestamps of rows are 0.1 s"),
    ],
)
def test_gaps_and_another_rate_are_told(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    column: str,
    values: list[float],
    fps: int,
    message: str,
):
    root = write_set(tmp_path / "set", "v2.1", [episode(5), episode(5, 1)], fps=fps)
    file = root / "data/chunk-000/episode_000001.parquet"
    rows = parquet.read_table(file)
    kind = rows.schema.field(column)
    changed = pa.array(values, kind.type)
    parquet.write_table(rows.set_column(rows.schema.get_field_index(column), kind, changed), file)
    loaded(root)
    assert message in caplog.text


# ---------------------------------------------------------------------------------- ends and tasks


def test_done_at_some_ends_alone_is_terminal(tmp_path: Path):
    made = [episode(4, i, **marks(4, last=i == 1)) for i in range(3)]
    assert loaded(write_set(tmp_path / "set", "v3.0", made)).terminated.tolist() == [
        False, True, False
    ]  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_done_at_all_ends_is_asked_for_and_told(tmp_path: Path, version: str):
    made = [episode(4, i, **marks(4)) for i in range(3)]
    root = write_set(tmp_path / "set", version, made)
    message = error(root)
    assert "data.roles={next.done: terminal} reads 3 terminal episodes" in message
    assert loaded(root, roles={"next.done": "terminal"}).terminated.all()
    assert not loaded(root, roles={"next.done": "end"}).terminated.any()


def test_done_at_all_ends_is_none_without_rewards(tmp_path: Path):
    made = episode(4, **{"next.done": np.array([False, False, False, True])})
    assert not loaded(write_set(tmp_path / "set", "v3.0", [made])).terminated.any()


def test_success_tells_which_ends_are_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    made = [
        episode(4, i, **marks(4, **{"next.success": np.arange(4) >= 3 + i % 2})) for i in range(3)
    ]
    with caplog.at_level(logging.INFO):
        logs = loaded(write_set(tmp_path / "set", "v3.0", made))
    assert logs.terminated.tolist() == [True, False, True]
    assert "whose last next.success is true: 2" in caplog.text and "not read" not in caplog.text


def test_done_inside_an_episode_is_refused(tmp_path: Path):
    done = np.array([False, True, False, False])
    message = error(write_set(tmp_path / "set", "v3.0", [episode(4, **{"next.done": done})]))
    assert "next.done is true in 1 rows inside episodes, first in row 1" in message


@pytest.mark.parametrize("version", VERSIONS)
def test_tasks_are_chosen_and_observed(tmp_path: Path, version: str):
    root = write_set(tmp_path / "set", version, [episode(3, i) for i in range(4)], tasks="ab")
    assert [e.name for e in episodes(root, tasks=["b"])] == ["episode 1", "episode 3"]
    found = episodes(root, observations=["state", "task"])
    assert [e.observations["task"][0].tolist() for e in found] == [[1, 0], [0, 1]] * 2
    assert "no such task" in error(root, tasks=["c"]) and "'a'" in error(root, tasks=["c"])


def test_features_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    loaded(write_set(tmp_path / "set", "v3.0", [episode(3, torque=np.zeros(3, np.float32))]))
    assert "torque" in caplog.text and "not read" in caplog.text


# ------------------------------------------------------------------------------- folders and files


def test_links_of_a_hub_cache_are_followed(tmp_path: Path):
    root = write_set(tmp_path / "set", "v3.0", [episode(4), episode(3, 1)], video=True)
    cache = tmp_path / "cache"
    for number, file in enumerate(sorted(f for f in root.rglob("*") if f.is_file())):
        blob, link = cache / "blobs" / str(number), cache / "snapshots/1" / file.relative_to(root)
        for path in (blob, link):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert len(episodes(cache / "snapshots/1")) == 2


def test_the_folder_is_recognized(tmp_path: Path):
    root = write_set(tmp_path / "set", "v2.1", [episode(3)])
    assert parse_source(str(root)).format == "lerobot"
    pattern = str(root / "data/chunk-*/*.parquet")
    with pytest.raises(DataError, match=f"choose one: {root} for all of it, or table:"):
        parse_source(pattern)
    assert parse_source(f"table:{pattern}").format == "table"


def test_a_table_of_its_files_names_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from tables import options as table_options

    root = write_set(tmp_path / "set", "v3.0", [episode(3)])
    pattern = root / "data" / "chunk-*" / "*.parquet"
    chosen = {"observations": ["observation.state"], "actions": ["action"]}
    load(table_options(pattern, episode="episode_index", **chosen))
    assert f"data=lerobot data.path={root}" in caplog.text


def test_a_second_start_reads_the_decoded_dataset(tmp_path: Path):
    root = write_set(tmp_path / "set", "v3.0", [episode(4), episode(3, 1)], video=True)
    kept = {"cache": "always", "cache_dir": str(tmp_path / "cache")}
    first = loaded(root, **kept)
    entry = next((tmp_path / "cache").rglob("meta.json"))
    written = entry.stat().st_mtime_ns
    assert loaded(root, **kept).fingerprint() == first.fingerprint()
    assert entry.stat().st_mtime_ns == written


def _edit(root: Path, **changes: Any) -> None:
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BROKEN = {
    "version 1": (lambda r: _edit(r, codebase_version="v1.6"), "is of version v1.6"),
    "no version": (lambda r: _edit(r, codebase_version=None), "is of version None"),
    "no JSON": (lambda r: (r / "meta/info.json").write_text("{"), "cannot be read"),
    "no rate": (lambda r: _edit(r, fps=0), "fps=0"),
    "features of text": (lambda r: _edit(r, features={"action": "x"}), "features without dtype"),
    "no action": (lambda r: _edit(r, features={"observation.state": {"dtype": "float32"}}),
                  "no feature 'action'"),
    "a path outside": (lambda r: _edit(r, data_path="../x-{file_index}.parquet"), "names the file"),
    "an absolute path": (lambda r: _edit(r, data_path="/etc/passwd"), "names the file"),
    "code in a path": (lambda r: _edit(r, data_path="{file_index.__class__}"), "names the file"),
    "no episodes": (lambda r: shutil.rmtree(r / "meta/episodes"), "no episodes/*/*.parquet"),
    "no rows": (lambda r: shutil.rmtree(r / "data"), "file-000.parquet"),
    "other rows": (lambda r: shutil.copy(r / "data/chunk-000/file-001.parquet",
                                         r / "data/chunk-000/file-000.parquet"), "has 0 rows"),
    "no video": (lambda r: shutil.rmtree(r / "videos"), "file-000.mp4"),
    "a short video": (lambda r: write_video(
        r / f"videos/{CAMERA}/chunk-000/file-000.mp4", [frame(0, 0)] * 3), "no frame at 0.300 s"),
    "a playlist": (lambda r: (r / f"videos/{CAMERA}/chunk-000/file-000.mp4").write_text(
        "#EXTM3U\n#EXTINF:1\n/etc/passwd\n"), "file-000.mp4"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_dataset_is_refused_in_words(tmp_path: Path, kind: str):
    made = [episode(n, i) for i, n in enumerate((4, 3, 5, 2))]
    root = write_set(tmp_path / "set", "v3.0", made, video=True)
    damage, words = BROKEN[kind]
    damage(root)
    message = error(root)
    assert words in message and "accepted" in message, message


def test_a_damaged_video_leaves_the_episodes_of_others(tmp_path: Path):
    root = write_set(tmp_path / "set", "v2.1", [episode(4, i) for i in range(3)], video=True)
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").write_bytes(b"damaged")
    found = list(read(options(root)).episodes)
    assert [isinstance(e, UnreadableEpisode) for e in found] == [False, True, False]
    assert loaded(root, on_invalid_episode="skip").num_episodes == 2
