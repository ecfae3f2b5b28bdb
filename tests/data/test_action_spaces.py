"""Gymnasium's action spaces as actions of a dataset, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data.action_spaces import (
    action_converter,
    action_mismatch,
    action_of_step,
    logged_actions,
)
from worldmodel.data.spec import ActionSpec
from worldmodel.dream.spaces import action_space
from worldmodel.errors import DataError

LEAVES = st.one_of(
    st.builds(lambda n, k: spaces.Discrete(n, start=k), st.integers(1, 5), st.integers(-1, 2)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 4), min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, st.integers(1, 3)),
    st.builds(lambda n: spaces.Box(-2, 3, (n, 2)), st.integers(1, 2)),
)
SPACES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=2).map(spaces.Tuple),
    ),
    max_leaves=4,
)


def stacked(actions: list[Any]) -> Any:
    """As logs hold them: nested, with the steps in front."""
    if isinstance(actions[0], dict):
        return {key: stacked([a[key] for a in actions]) for key in actions[0]}
    if isinstance(actions[0], tuple):
        return tuple(stacked(list(each)) for each in zip(*actions, strict=True))
    return np.stack([np.asarray(action) for action in actions])


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict | tuple):
        assert len(a) == len(b)
        for key in a if isinstance(a, dict) else range(len(a)):
            assert_same(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


@given(SPACES, st.integers(0, 99))
@settings(max_examples=60)
def test_logged_actions_come_back_to_the_environment(space: spaces.Space, seed: int) -> None:
    space.seed(seed)
    actions = [space.sample() for _ in range(4)]
    spec, convert = action_converter(space, "a log")
    array = convert(stacked(actions))
    assert array.shape == (4, *spec.shape)
    assert not spec.discrete or array.min() >= 0
    for action, row in zip(actions, array, strict=True):
        back = action_of_step(space, row)
        assert space.contains(back)
        assert_same(back, action)
    assert action_mismatch(space, spec) is None
    dreamed = action_space(spec)  # built back from the spec alone
    assert action_mismatch(dreamed, spec) is None
    dreamed.seed(seed)
    sample = dreamed.sample()
    flat = spec.flatten(sample) if isinstance(sample, dict | tuple) else np.asarray(sample)
    assert flat.size == spec.num_columns


def test_parts_have_the_names_of_the_space() -> None:
    space = spaces.Dict({"move": spaces.Box(-1, 1, (2,)), "arm": spaces.MultiDiscrete([3, 2])})
    spec, _ = action_converter(space, "a log")
    assert [name for name, _ in spec.parts] == ["arm/0", "arm/1", "move"]
    assert action_space(spec) == space
    binary, _ = action_converter(spaces.MultiBinary(2), "a log")
    assert action_space(binary) == spaces.MultiDiscrete([2, 2])


def test_actions_of_another_space_do_not_fit() -> None:
    several = spaces.MultiDiscrete([3, 2])
    assert action_mismatch(several, ActionSpec.of_columns([3, 2], [0, 0], [2, 1])) is None
    assert action_mismatch(several, ActionSpec(True, 3)) == "0 (3 classes), 1 (2 classes)"
    assert action_mismatch(spaces.Discrete(3), ActionSpec(True, 2)) == "3 classes"
    assert str(action_mismatch(spaces.Text(3), ActionSpec(True, 2))).startswith("Text")
    with pytest.raises(DataError, match="a log: action is Text"):
        action_converter(spaces.Text(3), "a log")


def test_one_infinite_bound_does_not_drop_the_others() -> None:
    high = np.array([1.0, np.inf, 3e38], np.float32)
    spec, _ = action_converter(spaces.Box(np.array([-1.0, 0.0, 0.0], np.float32), high), "a log")
    assert spec.low == (-1.0, 0.0, 0.0) and spec.high == (1.0, np.inf, np.inf) and spec.is_open


def test_classes_of_logs_are_those_of_a_space_that_begins_at_0() -> None:
    assert logged_actions(spaces.Discrete(3)) == ActionSpec(True, 3)
    assert logged_actions(spaces.Discrete(3, start=1)) is None
    assert logged_actions(spaces.Text(3)) is None
