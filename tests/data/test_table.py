"""CSV and Parquet tables: rows become episodes."""

from __future__ import annotations

import datetime
import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_sets import frame, png
from tables import assert_same, episodes, error, options, rows, text, written

from worldmodel.data import load
from worldmodel.data.episodes import Episode, UnreadableEpisode
from worldmodel.data.readers.table import read

REAL = Path(__file__).parents[2].parent / "shared" / "data"

# ------------------------------------------------------------------------------ rows and episodes


def test_a_row_holds_an_observation_and_the_action_taken_there(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(4, r=[1.0, 2.0, 3.0, 4.0]))
    logs = load(options(file, reward="r", last_row="observation"))
    assert logs.num_transitions == 3
    np.testing.assert_array_equal(
        logs.observations["observation"], [[0, 0], [1, 0.5], [2, 1], [3, 1.5]]
    )
    np.testing.assert_array_equal(logs.actions, [[0], [10], [20], [0]])  # the last is padding
    np.testing.assert_array_equal(logs.rewards, [1, 2, 3, 0])
    assert not logs.terminated.any()
    assert logs.names == (str(file),)


def test_the_order_of_columns_is_that_of_the_options(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(2))
    (episode,) = episodes(file, observations=["y", "u", "x"], actions=["x", "u"])
    np.testing.assert_array_equal(episode.observations["observation"][1], [0.5, 10, 1])
    np.testing.assert_array_equal(episode.actions[0], [0, 0])


def test_a_range_of_rows_includes_both_ends(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(9))
    logs = load(options(file, row_range=[2, 5]))
    np.testing.assert_array_equal(logs.observations["observation"][:, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(logs.actions[:, 0], [20, 30, 40, 0])
    assert "has 9 rows, data.row_range is [2,9]; accepted: up to 8" in error(file, row_range=[2, 9])


def test_with_feedthrough_an_input_is_the_action_of_the_previous_row(tmp_path: Path):
    logs = load(options(written(tmp_path / "log.csv", rows(4)), feedthrough=True))
    np.testing.assert_array_equal(logs.observations["observation"][:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(logs.actions[:, 0], [10, 20, 30, 0])


def test_action_and_reward_of_the_last_row_may_be_empty(tmp_path: Path):
    file = text(tmp_path / "log.csv", "x,y,u,r\n0,0,5,1\n1,1,6,2\n2,2,,\n")
    logs = load(options(file, reward="r"))
    np.testing.assert_array_equal(logs.actions, [[5], [6], [0]])
    np.testing.assert_array_equal(logs.rewards, [1, 2, 0])


@pytest.mark.parametrize("ending", ["parquet", "tsv"])
@pytest.mark.parametrize("discrete", [False, True])
def test_every_format_gives_the_same_dataset(tmp_path: Path, ending: str, discrete: bool):
    rng = np.random.default_rng(0)
    start = datetime.datetime(2024, 5, 1, 12)
    columns = {
        "x": rng.standard_normal(60),
        "y": rng.integers(-5, 5, 60),
        "flag": rng.random(60) < 0.5,
        "u": rng.integers(0, 3, 60),
        "r": rng.standard_normal(60).astype(np.float32),
        "done": np.arange(60) >= 58,
        "ep": np.arange(60) % 2,
        "t": [start + datetime.timedelta(milliseconds=20 * row) for row in range(60)],
        "note": [f"a, {row}" for row in range(60)],
    }
    chosen = {
        "observations": ["x", "y", "flag"], "reward": "r", "terminal": "done", "episode": "ep",
        "time": "t", "discrete": discrete,
    }  # fmt: skip
    one = options(written(tmp_path / "log.csv", columns), **chosen)
    other = options(written(tmp_path / f"log.{ending}", columns), **chosen)
    assert_same(load(one), load(other))
    for a, b in zip(read(one).episodes, read(other).episodes, strict=True):
        np.testing.assert_array_equal(a.time, b.time)
        assert a.name.removeprefix(one.path) == b.name.removeprefix(other.path)


CELLS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=60)


@settings(max_examples=25, deadline=None)
@given(CELLS, st.sampled_from(["csv", "parquet"]))
def test_interleaved_episodes_are_separated(
    tmp_path_factory: pytest.TempPathFactory, labels: list[str], ending: str
):
    folder = tmp_path_factory.mktemp("tables")
    file = written(folder / f"log.{ending}", rows(len(labels), ep=labels))
    naive: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        naive.setdefault(label, []).append(row)
    found = episodes(file, episode="ep")
    assert [episode.name for episode in found] == [f"{file} episode {label}" for label in naive]
    for episode, expected in zip(found, naive.values(), strict=True):
        assert episode.observations["observation"][:, 0].tolist() == expected
        assert episode.actions[:, 0].tolist() == [10 * row for row in expected[:-1]]


def test_001_and_1_are_two_episodes(tmp_path: Path):
    file = text(tmp_path / "log.csv", "x,y,u,ep\n0,0,0,001\n1,1,1,001\n2,2,2,1\n3,3,3,1\n")
    assert [e.name.split()[-1] for e in episodes(file, episode="ep")] == ["001", "1"]


@pytest.mark.parametrize("path", ["", "*.csv", "log_?.csv"])
def test_every_file_of_a_folder_or_pattern_is_an_episode(tmp_path: Path, path: str):
    for number in range(3):
        written(tmp_path / f"log_{number}.csv", rows(3 + number))
    text(tmp_path / "readme.txt", "no table")
    log = read(options(tmp_path / path))
    assert [file.name for file in log.files] == ["log_0.csv", "log_1.csv", "log_2.csv"]
    assert log.count == 3
    assert load(options(tmp_path / path)).lengths.tolist() == [3, 4, 5]


def test_a_pattern_may_name_any_ending(tmp_path: Path):
    text(tmp_path / "a.txt", "x,y,u\n0,0,0\n1,1,1\n")
    text(tmp_path / "b.txt", "x,y,u\n0,0,0\n1,1,1\n2,2,2\n")
    assert load(options(tmp_path / "*.txt")).lengths.tolist() == [2, 3]


def test_folders_may_mix_csv_and_parquet(tmp_path: Path):
    written(tmp_path / "a.csv", rows(3))
    written(tmp_path / "b.parquet", rows(4))
    assert load(options(tmp_path)).lengths.tolist() == [3, 4]


def test_files_are_read_one_at_a_time(tmp_path: Path):
    for name in "ab":
        written(tmp_path / f"{name}.csv", rows(3))
    found = iter(read(options(tmp_path)).episodes)
    assert isinstance(next(found), Episode)
    (tmp_path / "b.csv").unlink()
    assert isinstance(next(found), UnreadableEpisode)


def test_a_value_in_two_files_is_two_episodes_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    written(tmp_path / "a.csv", rows(4, ep=[1, 1, 2, 2]))
    written(tmp_path / "b.csv", rows(5, ep=[2, 2, 2, 3, 3]))
    with caplog.at_level(logging.WARNING):
        assert load(options(tmp_path, episode="ep")).lengths.tolist() == [2, 2, 3, 2]
    (record,) = caplog.records
    assert "1 values of column 'ep' are in several files;" in record.message
    assert f"2 is in {tmp_path / 'a.csv'} and in {tmp_path / 'b.csv'}" in record.message


def test_long_episodes_are_cut(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(11))
    assert load(options(file, max_episode_steps=4)).lengths.tolist() == [5, 5, 3]


# ------------------------------------------------------------------------------ how CSV is laid out


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_is_detected_in_the_header(tmp_path: Path, delimiter: str):
    content = 'x,"speed, wheel",y,u\n0,7,1,2\n3,8,4,5\n'
    lines = content.replace(",", delimiter).replace(f"speed{delimiter} wheel", "speed, wheel")
    (episode,) = episodes(text(tmp_path / "log.csv", lines))
    np.testing.assert_array_equal(episode.observations["observation"], [[0, 1], [3, 4]])


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfx,y,u\n0,1,2\n3,4,5\n",  # a byte order mark
        b"\n\n x , y, u\n 0, 1, 2\n 3, 4, 5\n",  # blank lines and spaces
        b"x,y,u\r\n0,1,2\r\n3,4,5\r\n",
        b"x,y,u,,\n0,1,2,,\n3,4,5,,\n",  # a trailing comma
        b"\xb0C,x,y,u\n9,0,1,2\n9,3,4,5\n",  # Latin-1 in another column
        b'x,y,u,note\n0,1,2,"two\nlines"\n3,4,5,""\n',
        b'"x","y","u"\n"0","1","2"\n"3","4","5"',  # no newline at the end
    ],
)
def test_variants_of_csv_are_read(tmp_path: Path, content: bytes):
    (episode,) = episodes(text(tmp_path / "log.csv", content))
    np.testing.assert_array_equal(episode.observations["observation"], [[0, 1], [3, 4]])
    np.testing.assert_array_equal(episode.actions, [[2]])


def test_compressed_csv_is_read(tmp_path: Path):
    file = text(tmp_path / "log.csv.gz", gzip.compress(b"x,y,u\n0,1,2\n3,4,5\n"))
    assert load(options(file)).lengths.tolist() == [2]


def test_a_column_of_lists_is_a_vector(tmp_path: Path):
    columns = {
        "state": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        "x": [7.0, 8.0, 9.0],
        "u": pa.array([[1, 2, 3]] * 3, pa.list_(pa.float32(), 3)),
    }
    file = written(tmp_path / "log.parquet", columns)
    (episode,) = episodes(file, observations=["state", "x"])
    np.testing.assert_array_equal(
        episode.observations["observation"], [[1, 2, 7], [3, 4, 8], [5, 6, 9]]
    )
    assert episode.actions.shape == (2, 3)


@pytest.mark.parametrize("kind", ["binary", "large_binary", "struct"])
def test_a_column_of_encoded_images_is_an_observation_of_its_own(tmp_path: Path, kind: str):
    images = [png(0, step) for step in range(3)]
    cells = {
        "binary": lambda: pa.array(images, pa.binary()),
        "large_binary": lambda: pa.array(images, pa.large_binary()),
        "struct": lambda: pa.array([{"bytes": i, "path": None} for i in images]),
    }
    file = written(tmp_path / "log.parquet", rows(3, camera=cells[kind]()))
    logs = load(options(file, observations=["x", "camera", "y"]))
    assert list(logs.observations) == ["observation", "camera"]
    np.testing.assert_array_equal(logs.observations["observation"][1], [1, 0.5])
    np.testing.assert_array_equal(
        logs.observations["camera"], [frame(0, step) for step in range(3)]
    )


def test_a_missing_image_is_reported_with_its_row(tmp_path: Path):
    camera = pa.array([png(0, 0), None, png(0, 2)], pa.binary())
    file = written(tmp_path / "log.parquet", rows(3, camera=camera))
    message = error(file, observations=["camera"])
    assert "column 'camera' has no bytes at row 1" in message


# --------------------------------------------------------------------- times, terminals and classes


@pytest.mark.parametrize(
    "cells",
    [
        ["5", "5.5", "7"],
        ["2024-05-01T12:00:05", "2024-05-01T12:00:05.5", "2024-05-01T12:00:07"],
        ["2024-05-01 12:00:05Z", "2024-05-01 12:00:05.5Z", "2024-05-01 14:00:07+02:00"],
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_time_is_seconds_since_the_first_row(tmp_path: Path, cells: list[str], ending: str):
    file = written(tmp_path / f"log.{ending}", rows(3, t=cells))
    (episode,) = episodes(file, time="t")
    assert episode.time.dtype == np.float64
    np.testing.assert_allclose(episode.time, [0, 0.5, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "ticks", "expected"),
    [
        (pa.timestamp("ns"), 1_700_000_000_000_000_000, 1e-9),
        (pa.timestamp("us", "UTC"), 1_700_000_000_000_000, 1e-6),
        (pa.timestamp("s"), 1_700_000_000, 1),
        (pa.duration("ms"), 0, 1e-3),
        (pa.time32("ms"), 3_600_000, 1e-3),
        (pa.time64("ns"), 0, 1e-9),
        (pa.date32(), 19_000, 86_400),
        (pa.int64(), 1_700_000_000, 1),
    ],
)
def test_time_of_any_unit_is_converted_to_seconds(
    tmp_path: Path, kind: pa.DataType, ticks: int, expected: float
):
    raw = pa.array([ticks, ticks + 1, ticks + 3], pa.int64())
    narrow = raw.cast(pa.int32()) if kind.bit_width == 32 else raw
    file = written(tmp_path / "log.parquet", rows(3, t=narrow.cast(kind)))
    (episode,) = episodes(file, time="t")
    np.testing.assert_allclose(episode.time, np.array([0, 1, 3]) * expected, rtol=1e-9)


def test_time_starts_at_0_in_every_episode(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(4, ep=[1, 2, 1, 2], t=[10.0, 11.0, 12.0, 14.0]))
    assert [e.time.tolist() for e in episodes(file, episode="ep", time="t")] == [[0, 2], [0, 3]]


def test_decreasing_time_is_an_error_with_its_step(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(4, t=[0.0, 1.0, 0.5, 2.0]))
    assert f"{file}, step 2: time is 0.5 after 1" in error(file, time="t")


def test_uneven_sampling_causes_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name, gap in (("a", 1.0), ("b", 100.0), ("c", 200.0)):
        written(tmp_path / f"{name}.csv", rows(5, t=np.cumsum([0, 1, 1, gap, 1.0])))
    with caplog.at_level(logging.WARNING):
        load(options(tmp_path, time="t"))
    (record,) = caplog.records
    assert "2 of 3 episodes" in record.message
    assert "b.csv: 100 s after row 2, the median is 1 s" in record.message


def test_a_coarse_clock_is_not_uneven_sampling(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    file = written(tmp_path / "log.csv", rows(12, t=np.arange(12) // 4))
    with caplog.at_level(logging.WARNING):
        load(options(file, time="t"))
    assert not caplog.records


@pytest.mark.parametrize("last", ["1", "true", "True", "TRUE", "1.0"])
def test_an_episode_that_is_true_in_its_last_row_is_terminal(tmp_path: Path, last: str):
    first = last.replace("1", "0") if "1" in last else "false"
    file = text(tmp_path / "log.csv", f"x,y,u,done\n0,0,0,{first}\n1,1,1,{first}\n2,2,2,{last}\n")
    assert load(options(file, terminal="done")).terminated.tolist() == [True]


def test_an_episode_without_a_true_row_is_not_terminal(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(3, done=[False, False, False]))
    assert load(options(file, terminal="done")).terminated.tolist() == [False]


def test_an_early_terminal_is_an_error_of_its_episode(tmp_path: Path):
    columns = rows(6, ep=[1, 2, 1, 2, 1, 2], done=[0, 0, 0, 1, 1, 0])
    file = written(tmp_path / "log.csv", columns)
    one, other = read(options(file, terminal="done", episode="ep")).episodes
    assert one.terminated and isinstance(other, UnreadableEpisode)
    assert other.name == f"{file} episode 2"
    assert "column 'done' is true at row 1 of rows 0 to 2" in other.error
    skipping = options(file, terminal="done", episode="ep", on_invalid_episode="skip")
    assert load(skipping).names == (f"{file} episode 1",)


def test_a_mark_that_stays_true_suggests_the_option_for_episodes(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(5, done=[0, 0, 1, 1, 1]))
    message = error(file, terminal="done")
    assert "column 'done' is true at rows 2 and 3" in message
    assert "data.episode names a column" in message


@pytest.mark.parametrize("cells", [[0, 2, 1, 0], [0.0, 2.0, 1.0, 0.0], ["0", "2", "1", ""]])
def test_discrete_actions_are_classes(tmp_path: Path, cells: list[Any]):
    logs = load(options(written(tmp_path / "log.csv", rows(4, u=cells)), discrete=True))
    assert logs.action_spec.discrete and logs.action_spec.size == 3
    assert logs.actions.dtype == np.int32 and logs.actions.tolist() == [0, 2, 1, 0]


def test_integers_are_continuous_actions_by_default(tmp_path: Path):
    logs = load(options(written(tmp_path / "log.csv", rows(3, u=[0, 1, 2]))))
    assert not logs.action_spec.discrete and logs.actions.dtype == np.float32


def test_booleans_are_zero_and_one(tmp_path: Path):
    file = written(tmp_path / "log.csv", rows(3, x=[True, False, True]))
    (episode,) = episodes(file)
    assert episode.observations["observation"][:, 0].tolist() == [1, 0, 1]


# ------------------------------------------------------------------------------------ real datasets


@pytest.fixture
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip("the folder of real datasets is missing")
    return REAL


def test_real_flights_are_read(real: Path):
    motors = [f"motor_motor_m{number}" for number in (1, 2, 3, 4)]
    chosen = {"observations": ["px", "py", "pz", "vx", "vy", "vz"], "actions": motors, "time": "t"}
    log = read(options(real / "nanobench" / "*.csv", **chosen))
    flights = list(log.episodes)
    assert log.count == len(flights) == 6
    for flight in flights:
        lines = Path(flight.name).read_text().splitlines()
        names, last = lines[0].split(","), lines[-1].split(",")
        assert len(flight.time) == len(lines) - 1
        expected = np.array([last[names.index(column)] for column in chosen["observations"]], float)
        np.testing.assert_allclose(flight.observations["observation"][-1], expected, rtol=1e-6)
        assert np.median(np.diff(flight.time)) == pytest.approx(0.01, rel=0.02)  # 100 Hz


@pytest.mark.parametrize(
    ("name", "observation", "action", "samples"),
    [
        ("wiener_hammerstein", "yBenchMark", "uBenchMark", 188_000),
        ("silverbox", "V2", "V1", 131_072),
        ("cascaded_tanks", "yEst", "uEst", 1024),
    ],
)
def test_real_records_are_cut_into_episodes(
    real: Path, name: str, observation: str, action: str, samples: int
):
    file = real / "sysid" / f"{name}.csv"
    chosen = {"observations": [observation], "actions": [action], "max_episode_steps": 500}
    logs = load(options(file, **chosen))
    assert logs.num_transitions == samples - 1
    assert logs.lengths.max() == 501
    names, first, *_, last = (line.split(",") for line in file.read_text().split())
    column = names.index(f'"{observation}"')
    values = logs.observations["observation"][:, 0]
    assert values[0] == np.float32(first[column]) and values[-1] == np.float32(last[column])
