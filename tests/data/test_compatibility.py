"""Datasets for a trained model: differences from its own dataset are reported."""

import dataclasses
import re

import numpy as np
import pytest

from worldmodel.data import Episode, stack_episodes
from worldmodel.data.compatibility import conform_to_spec, fraction_outside_bounds
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import DataError

RNG = np.random.default_rng(0)


def logs(observations=None, actions=2, scale=1.0):
    shapes = {"position": 3, "speed": 1} if observations is None else observations
    made = [
        Episode(
            {key: RNG.normal(size=(9, size)) for key, size in shapes.items()},
            scale * RNG.uniform(-1, 1, (8, actions)) if actions else RNG.integers(0, 3, 8),
            None,
            False,
        )
        for _ in range(3)
    ]
    return stack_episodes(made, "some logs")


SPEC = logs().spec()


def test_a_matching_dataset_keeps_its_steps_and_takes_the_bounds_of_the_run():
    other = logs({"speed": 1, "position": 3, "more": 5}, scale=4.0)
    conformed = conform_to_spec(other, SPEC)
    assert list(conformed.observations) == ["position", "speed"]  # in the order of the model
    np.testing.assert_array_equal(conformed.observations["speed"], other.observations["speed"])
    assert conformed.action_spec == SPEC.action
    assert conformed.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (logs({"positon": 3, "speed": 1}), "observation 'position' is missing (did you mean"),
        (logs({"position": 4, "speed": 1}), "of shape (4,); accepted: float32 of shape (3,)"),
        (logs(actions=3), "actions have 3 dimensions; accepted: 2"),
        (logs(actions=0), "actions are discrete; accepted: continuous"),
    ],
)
def test_differences_are_reported(other, expected):
    with pytest.raises(DataError, match=re.escape(expected)):
        conform_to_spec(other, SPEC)


def test_all_differences_are_reported_at_once():
    with pytest.raises(DataError) as raised:
        conform_to_spec(logs({"position": 4}, actions=1), SPEC)
    assert all(
        word in str(raised.value) for word in ("(4,)", "'speed'", "have 1 dimensions", "some logs")
    )


def test_actions_outside_the_bounds_are_counted_without_padding():
    ours = logs()
    assert fraction_outside_bounds(ours) == 0
    narrow = ActionSpec(False, 2, (-1.0, -1.0), (0.0, 1.0))
    padding = np.zeros(len(ours.actions), bool)
    padding[ours.last_steps] = True
    share = (ours.actions[~padding, 0] > 0).mean()
    assert fraction_outside_bounds(dataclasses.replace(ours, action_spec=narrow)) == pytest.approx(
        share
    )
