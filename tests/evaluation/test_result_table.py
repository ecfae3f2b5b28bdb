"""Tables say of how many values their numbers are: once, where that is enough."""

from __future__ import annotations

import math

import pytest

from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.statistics import Estimate


def number(n: int, of: str = "episodes", episodes: int | None = None) -> Estimate:
    return Estimate(1.0, 0.5, 2.0, n, "a mean", of, episodes)


def test_n_stands_in_the_title_where_all_numbers_have_the_same():
    rows = [["1", number(100, "starts", 20)], ["2", number(100, "starts", 20)]]
    title, header, cells = ResultTable("Error", ["steps", "error"], rows).formatted()
    assert title == "Error, over 100 starts in 20 episodes"
    assert header == ["steps", "error"] and cells[1] == ["2", "1.00 [0.500, 2.00]"]


@pytest.mark.parametrize(
    ("numbers", "header", "counts"),
    [
        ([number(50), number(200)], "episodes", ["50", "200"]),
        ([number(5, "training seeds"), number(200)], "n", ["5 training seeds", "200 episodes"]),
        ([number(9, "starts", 2), number(1, "starts")], "starts (ep.)", ["9 (2)", "1"]),
    ],
)
def test_n_stands_in_a_column_where_rows_differ(numbers, header, counts):
    table = ResultTable("Return", ["agent", "return"], [[str(i), n] for i, n in enumerate(numbers)])
    title, names, cells = table.formatted()
    assert title == "Return" and names == ["agent", "return", header]
    assert [row[2] for row in cells] == counts


def test_n_stands_in_every_cell_where_those_of_a_row_differ():
    rows = [["policy", number(50), number(40)], ["planner", "", number(50)]]
    title, header, cells = ResultTable("Return", ["agent", "a", "b"], rows).formatted()
    assert title == "Return" and header == ["agent", "a", "b"]
    assert cells[0][1:] == ["1.00 [0.500, 2.00], n = 50", "1.00 [0.500, 2.00], n = 40"]
    assert cells[1][1:] == ["", "1.00 [0.500, 2.00], n = 50"]


def test_a_row_without_numbers_has_no_n():
    table = ResultTable(
        "Return", ["agent", "return"], [["a", ""], ["b", number(2)], ["c", number(3)]]
    )
    assert [row[2] for row in table.formatted().rows] == ["", "2", "3"]
    assert ResultTable("Words", ["agent"], [["a"]]).formatted() == ("Words", ["agent"], [["a"]])


def test_what_is_spared_is_not_counted_on_a_terminal():
    table = ResultTable("Return", ["agent", "a", "b"], [["x", number(5), number(6)]], ("b",))
    assert ", n = 5" in table.markdown()
    assert table.narrow().formatted().title == "Return, over 5 episodes"


def test_a_single_value_is_shown_without_an_interval_but_with_its_n():
    alone = Estimate(3.0, math.nan, math.nan, 128, "of one record", "rows")
    rows = [["a", alone], ["b", Estimate(4.0, math.nan, math.nan, 64, "of one record", "rows")]]
    assert ResultTable("Free run", ["record", "RMSE"], rows).formatted().rows[0] == [
        "a",
        "3.00",
        "128",
    ]
