"""Actions of several parts: columns, conversion, and actions by the names of their parts."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldmodel.data.spec import ActionSpec
from worldmodel.errors import ArgumentError, DataError

CAR = ActionSpec.of_parts(
    {
        "doors/0": ActionSpec(True, 3),
        "doors/1": ActionSpec(True, 2),
        "gear": ActionSpec(True, 5),
        "steering": ActionSpec(False, 2, (-2.0, 0.0), (2.0, 4.0)),
    }
)


def test_each_number_and_each_choice_has_a_column() -> None:
    assert (CAR.size, CAR.vector_size, CAR.kind, CAR.shape) == (5, 12, "mixed", (5,))
    assert CAR.classes == (3, 2, 5, 0, 0)
    assert CAR.low == (0.0, 0.0, 0.0, -2.0, 0.0) and CAR.high == (2.0, 1.0, 4.0, 2.0, 4.0)
    assert CAR.column_names() == ["doors/0", "doors/1", "gear", "steering 0", "steering 1"]
    numbers = ActionSpec.of_parts({"a": ActionSpec(False, 1, (0.0,), (1.0,))})
    assert numbers.kind == "continuous" and numbers.vector_size == 1
    assert ActionSpec.of_parts({"only": ActionSpec(True, 1)}).high == (1.0,)  # of some width


def test_specs_without_parts_are_written_as_before() -> None:
    """Datasets are recognized by it."""
    assert repr(ActionSpec(True, 3)) == "ActionSpec(discrete=True, size=3, low=(), high=())"
    assert ActionSpec.from_json({"discrete": True, "size": 3, "low": [], "high": []}).size == 3
    stored = json.loads(json.dumps(dataclasses.asdict(CAR)))
    assert ActionSpec.from_json(stored) == CAR and hash(ActionSpec.from_json(stored)) == hash(CAR)
    assert repr(CAR) != repr(dataclasses.replace(CAR, parts=()))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 2**31 - 1))
def test_normalized_actions_come_back(classes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(-5, 0, len(classes))
    spec = ActionSpec.of_columns(classes, low, low + rng.uniform(0.1, 5, len(classes)))
    unit = rng.uniform(-1, 1, (20, spec.size)).astype(np.float32)
    normalized = spec.from_unit(unit)
    raw = spec.denormalize(normalized)
    np.testing.assert_allclose(spec.normalize(raw), normalized, atol=1e-5)
    assert not spec.no_classes(raw).any()
    np.testing.assert_array_equal(spec.clip(jnp.asarray(normalized)), spec.clip(normalized))
    np.testing.assert_allclose(spec.normalize(jnp.asarray(raw)), spec.normalize(raw), atol=1e-6)
    for column, count in enumerate(classes):
        assert count == 0 or set(raw[:, column]) <= set(range(count))
    assert spec.clip(3 * unit + 7).max() <= max([1, *(n - 1 for n in classes)])


def test_uniform_numbers_give_uniform_classes() -> None:
    unit = np.linspace(-1, 1, 10_001, dtype=np.float32)[:, None]
    drawn = ActionSpec.of_columns([5], [0], [4]).from_unit(unit)
    np.testing.assert_allclose(np.bincount(drawn[:, 0].astype(int)) / len(unit), 0.2, atol=1e-3)


def test_classes_beyond_a_choice_are_rounded_to_one_that_exists() -> None:
    wide = np.array([9.0, -3.0, 2.4, 5.0, -0.5], np.float32)
    assert CAR.clip(wide).tolist() == [2.0, 0.0, 2.0, 1.0, -0.5]
    assert CAR.no_classes(wide).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    "given",
    [
        {"doors": [2, 1], "gear": 4, "steering": [1.0, 3.0]},
        {"steering": [1.0, 3.0], "gear": np.int32(4), "doors/1": 1, "doors/0": 2},
        {"doors": {"0": 2, "1": 1}, "gear": 4, "steering": jnp.array([1.0, 3.0])},
        ((2, 1), 4, [1.0, 3.0]),
        ([2, 1], 4, np.array([1, 3])),
    ],
)
def test_parts_are_given_by_name_or_in_order(given: Any) -> None:
    assert CAR.flatten(given).tolist() == [2.0, 1.0, 4.0, 1.0, 3.0]


def test_parts_have_the_axes_of_a_batch_in_front() -> None:
    array = np.ones((4, 5), np.float32)
    assert CAR.flatten(array) is array
    doors, gear, steering = np.zeros((4, 6, 2), int), np.ones((4, 6), int), np.ones((4, 6, 2))
    joined = CAR.flatten({"doors": doors, "gear": gear, "steering": steering})
    assert joined.shape == (4, 6, 5) and joined.dtype == np.float32
    by_gear = jax.jit(lambda g: CAR.flatten({"doors": doors, "gear": g, "steering": steering}))
    np.testing.assert_array_equal(by_gear(gear), joined)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"doors": [2, 1], "gear": 4}, "action: 'steering' is missing; accepted: doors/0, doors/1"),
        ({"gears": 4}, "action: 'gears' (did you mean 'gear'?); accepted: doors/0"),
        ({"doors": [2], "gear": 4}, "action 'doors': int64 (1,); accepted: integers (..., 2)"),
        ({"gear": 4.0}, "action 'gear': float64 (); accepted: integers (...)"),
        ({"steering": [1.0]}, "action 'steering': float64 (1,); accepted: numbers (..., 2)"),
        ({"doors": [1, 1], "doors/0": 1, "gear": 1, "steering": [0, 1]}, "given twice"),
        ({"doors": [[1, 1]], "gear": 1, "steering": [0, 1]}, "action: parts of shapes [(), (1,)]"),
        ((1, 2), "action: a tuple of 2; accepted: 3: doors, gear, steering"),
    ],
)
def test_other_names_and_shapes_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(words)):
        CAR.flatten(given)


def test_parts_need_a_spec_that_has_them() -> None:
    with pytest.raises(ArgumentError, match="have no parts"):
        ActionSpec(True, 2).flatten({"a": 1})
    with pytest.raises(DataError, match="two parts of one name"):
        part = ("a", ActionSpec(True, 2))
        ActionSpec(False, 2, (0.0, 0.0), (1.0, 1.0), (part, part))
    with pytest.raises(DataError, match="parts without parts"):
        ActionSpec.of_parts({"car": CAR})
