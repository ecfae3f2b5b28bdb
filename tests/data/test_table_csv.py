"""CSV files of other layouts: the refusal names the options that read them."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import episodes, error, options, rows, text

from worldmodel.config.arguments import parse_options
from worldmodel.data import load
from worldmodel.data.commands import InspectOptions
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tables.csv_layout import CSVOptions
from worldmodel.data.sources import parse_source_options
from worldmodel.errors import ConfigError

ODD = Path(__file__).parents[2].parent / "shared" / "data" / "odd_logs"
LAYOUTS = {
    "comments": ("# rig 7\n# rate 50\nx,y,u\n0,1,2\n3,4,5\n", "data.csv.comment='#'"),
    "comments of MATLAB": ("% rig 7\n\nx,y,u\n0,1,2\n3,4,5\n", "data.csv.comment='%'"),
    "comments among rows": ("x,y,u\n0,1,2\n# lost\n3,4,5\n", "data.csv.comment='#'"),
    "lines before the header": (
        "rig 7\nat, 50\n\nx,y,u\n0,1,2\n3,4,5\n",
        "data.csv.skip_lines=3",
    ),
    "decimal commas": ("x;y;u\n0,0;1,0;2,0\n3,0;4,0;5e0\n", "data.csv.decimal=comma"),
    "bars": ("x|y|u\n0|1|2\n3|4|5\n", "data.csv.delimiter=bar"),
    "spaces": ("x y u\n0 1 2\n3 4 5\n", "data.csv.delimiter=space"),
}


def table_options(path: Path, words: list[str]) -> TableData:
    """The options of a table with some set as on a command line."""
    data = options(path)
    parse_options([word.removeprefix("data.") for word in words], data)
    return data


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_the_refusal_names_the_option_that_reads_the_file(tmp_path: Path, kind: str, ending: str):
    content, suggested = LAYOUTS[kind]
    data = content.encode() if ending == "csv" else gzip.compress(content.encode())
    file = text(tmp_path / f"log.{ending}", data)
    message = error(file)
    assert suggested in message, message
    words = re.findall(r"data\.csv\.\w+=(?:'[^']*'|\w+)", message)
    logs = load(table_options(file, words))
    np.testing.assert_array_equal(logs.observations["observation"], [[0, 1], [3, 4]])
    assert logs.actions[0, 0] == 2


def test_several_options_are_named_together(tmp_path: Path):
    file = text(tmp_path / "log.csv", "# rig 7\nx|y|u\n0|1|2\n3|4|5\n")
    assert "\"data.csv.comment='#'\" data.csv.delimiter=bar" in error(file)


def test_a_tab_can_be_named(tmp_path: Path):
    file = text(tmp_path / "log.csv", "x\ty\tu\n0\t1\t2\n3\t4\t5\n")
    assert load(table_options(file, ["data.csv.delimiter=tab"])).num_transitions == 1


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ({"delimiter": "::"}, "accepts one character"),
        ({"delimiter": "comma", "decimal": "comma"}, "another character than the decimal"),
        ({"decimal": ","}, "one of point, comma"),
        ({"skip_lines": -1}, "0 or more"),
    ],
)
def test_invalid_layouts_are_refused(tmp_path: Path, csv: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(options(text(tmp_path / "log.csv", "x,y,u\n0,1,2\n3,4,5\n"), csv=CSVOptions(**csv)))


def test_comments_of_any_length_are_left_out(tmp_path: Path):
    long = "#" + "-" * 3_000_000 + "\n"  # longer than what is read at once
    lines = [f"{i},{i},{i}\n" + (long if i == 2 else "#\n") for i in range(5)]
    file = text(tmp_path / "log.csv", "x,y,u\n" + "".join(lines) + "5,5,5\n#end")
    (episode,) = episodes(file, csv=CSVOptions(comment="#"))
    np.testing.assert_array_equal(episode.observations["observation"][:, 0], range(6))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20),
    st.sampled_from(["comma", "point"]),
    st.sampled_from([";", "\t", "|"]),
    st.sampled_from(["", "# one\n", "# one\n\n#two\n"]),
    st.integers(0, 3),
)
def test_every_layout_gives_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[float],
    decimal: str,
    delimiter: str,
    comment: str,
    skip: int,
):
    lines = [comment + delimiter.join([repr(x), "1.5", "2"]) for x in cells]
    content = "".join(f"{line}\n" for line in ["x y u".replace(" ", delimiter), *lines])
    layout = CSVOptions(delimiter, decimal, "#" if comment else None, skip)
    file = tmp_path_factory.mktemp("t") / "log.csv"
    text(file, "a line\n" * skip + content.replace(".", layout.decimal_point))
    (episode,) = episodes(file, csv=layout)
    np.testing.assert_array_equal(episode.observations["observation"][:, 0], cells)
    assert episode.observations["observation"].dtype == np.float64


@pytest.mark.parametrize(
    ("name", "csv"),
    [
        ("comment_lines", {"comment": "#"}),
        ("preamble", {"skip_lines": 3}),
        ("decimal_comma", {"decimal": "comma"}),
    ],
)
def test_odd_files_are_read(name: str, csv: dict[str, Any]):
    file = ODD / "csv" / f"{name}.csv"
    if not file.exists():
        pytest.skip("the folder of odd logs is missing")
    chosen = {"observations": ["pos", "vel"], "actions": ["force"], "reward": "reward"}
    assert next(iter(csv)) in error(file, **chosen)
    (episode,) = episodes(file, **chosen, csv=CSVOptions(**csv))
    assert len(episode.actions) == 60
    np.testing.assert_array_equal(episode.observations["observation"][0], [-0.11717, -0.01336])
    assert np.ravel(episode.rewards)[-1] == -0.09887


def test_positions_of_millions_of_metres_keep_their_digits():
    file = ODD / "digits" / "utm.csv"
    if not file.exists():
        pytest.skip("the folder of odd logs is missing")
    (episode,) = episodes(file, observations=["north", "east"], actions=["u"])
    lines = [line.split(",")[1:3] for line in file.read_text().splitlines()[1:]]
    np.testing.assert_array_equal(episode.observations["observation"], np.array(lines, float))


def test_rows_of_other_types_than_the_first_block_are_read(tmp_path: Path):
    many = "".join(f"{i},0,{i},{i}\n" for i in range(200_000))  # more than a block
    file = text(tmp_path / "log.csv", f"x,y,u,t\n{many}200000,true,0,2e5\n")
    (episode,) = episodes(file, time="t")
    assert episode.time[-1] == 200_000 and len(episode.time) == 200_001


def test_a_range_of_rows_may_lie_in_any_block(tmp_path: Path):
    many = "".join(f"{i},0,{i}\n" for i in range(200_000))
    file = text(tmp_path / "log.csv", f"x,y,u\n{many}")
    for first, last in ((5, 9), (150_000, 150_004)):
        (episode,) = episodes(file, row_range=[first, last])
        expected = rows(last + 1)["x"][first:]
        np.testing.assert_array_equal(episode.observations["observation"][:, 0], expected)


def test_marks_of_thousands_are_named_with_their_row(tmp_path: Path):
    file = text(tmp_path / "log.csv", "x;y;u\n0,5;1;2\n1.000,143;4;5\n")
    message = error(file, csv=CSVOptions(decimal="comma"))
    assert "column 'x' is '1.000,143' at row 1" in message, message
    assert "set data.csv" not in message


def test_a_file_without_header_is_told(tmp_path: Path):
    file = text(tmp_path / "log.csv", "0.5,1,2\n3,4,5\n")
    assert "the first line holds numbers: add a line with the names" in error(file)


def test_columns_are_listed_where_none_is_named(tmp_path: Path):
    file = text(tmp_path / "log.csv", "pos,vel,force\n0,1,2\n3,4,5\n")
    with pytest.raises(ConfigError, match=r"needs a value(.|\n)*'pos', 'vel', 'force'"):
        parse_source_options(str(file), [], InspectOptions())
