"""The names of ends mean the same everywhere; what cannot be told apart is asked."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from worldmodel.config import DataOptions
from worldmodel.data.readers.marks import FieldNames, check_roles, read_marks, role_of, truths
from worldmodel.errors import DataError


def marks(**fields: list[float]) -> tuple[list[int], list[int]]:
    """The last rows of episodes, and the terminal ones among them."""
    found = read_marks(fields)
    return np.flatnonzero(found.last).tolist(), np.flatnonzero(found.terminal).tolist()


def test_names_of_ends_are_read_by_what_they_mean() -> None:
    assert marks(terminals=[0, 1, 0, 0, 0]) == ([1, 4], [1])
    assert marks(terminations=[0, 1, 0, 0, 0], truncations=[0, 0, 0, 1, 0]) == ([1, 3, 4], [1])
    assert marks(is_first=[1, 0, 1, 0, 0], is_terminal=[0, 0, 0, 0, 1]) == ([1, 4], [4])
    assert marks(discount=[1, 0, 0.9, 1, 1]) == ([1, 4], [1])
    assert marks(dones_float=[0, 1, 0, 0, 0]) == ([1, 4], [])
    assert read_marks({"is_last": [0, 0, 1]}).final
    # A row that is marked as both is terminal, except where `dones` says no more than `end`.
    assert marks(terminated=[0, 1, 0], truncated=[0, 1, 0]) == ([1, 2], [1])


def test_another_field_settles_what_dones_and_masks_mean() -> None:
    assert marks(dones=[0, 1, 0, 0, 1], timeouts=[0, 1, 0, 0, 0]) == ([1, 4], [4])
    assert marks(dones=[0, 1, 0, 0, 1], terminals=[0, 0, 0, 0, 1]) == ([1, 4], [4])
    assert marks(dones=[0, 1, 0, 0, 1], masks=[1, 1, 1, 1, 0]) == ([1, 4], [4])
    assert marks(terminals=[0, 1, 0, 0, 1], masks=[1, 1, 0, 1, 1]) == ([1, 2, 4], [2])
    ends = np.array([0, 1, 0, 0, 1], bool)
    found = read_marks({"dones": [0, 0, 0, 0, 1]}, ends=ends)  # an episode ends unmarked
    assert found.terminal.tolist() == [False, False, False, False, True]
    assert not read_marks({"dones": [0, 0, 0]}).terminal.any()


@pytest.mark.parametrize(("name", "negated"), [("dones", ""), ("masks", "not_")])
def test_what_cannot_be_told_apart_is_asked_and_both_readings_are_counted(
    name: str, negated: str
) -> None:
    values = np.array([0, 0, 1, 0, 1]) ^ bool(negated)
    with pytest.raises(DataError) as caught:
        read_marks({name: values})
    message = str(caught.value)
    assert f"data.roles={{{name}: {negated}terminal}} reads 2 terminal episodes" in message
    assert f"data.roles={{{name}: {negated}end}} reads 2 that were only cut" in message
    terminal = read_marks({name: values}, {name: f"{negated}terminal"}).terminal
    assert terminal.tolist() == [False, False, True, False, True]
    assert not read_marks({name: values}, {name: f"{negated}end"}).terminal.any()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, np.nan], "nan in row 8"),
        ([1, -1], "-1 in row 8"),
        ([1, 0.5], "0.5 in row 8"),
        (["True", "no"], "'True' in row 7"),
        (np.array([True, "x"], object), "'x' in row 8"),
        ([[0, 1]], "shape (1, 2)"),
    ],
)
def test_a_mark_is_true_or_false(values: Any, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        truths(values, "dones", first_row=7)
    assert "dones" in str(caught.value) and shown in str(caught.value)
    if "row" in shown:
        assert "data.roles={dones: ignore}" in str(caught.value)
    assert truths(np.array([True, 0, 1.0], object), "dones").tolist() == [True, False, True]


def test_roles_are_checked_and_fields_not_understood_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(DataError, match=r"names don \(did you mean 'done'\?\)"):
        check_roles({"don": "terminal"}, ["obs", "done"])
    assert role_of("next_obs") == "next_observation" and role_of("battery") is None
    unread = FieldNames("logs/*.npz")
    with caplog.at_level(logging.WARNING):
        unread.warn(["battery"], 240)
        unread.warn(["battery"], 240)
    assert caplog.text.count("battery") == 3 and "data.roles={battery: ignore}" in caplog.text


def test_a_role_that_is_none_is_refused() -> None:
    errors = list(DataOptions(name="x", roles={"dones": "terminl"}).errors())
    assert "data.roles={dones: terminl}: accepts observation" in errors[0]
    assert "did you mean 'terminal'" in errors[0]
