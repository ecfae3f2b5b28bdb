"""Other logs for a trained model: what does not look like its own is named."""

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


def test_logs_that_fit_keep_their_rows_and_take_the_bounds_of_the_run():
    other = logs({"speed": 1, "position": 3, "more": 5}, scale=4.0)
    seen = conform_to_spec(other, SPEC)
    assert list(seen.observations) == ["position", "speed"]  # as the model names them
    np.testing.assert_array_equal(seen.observations["speed"], other.observations["speed"])
    assert seen.action_spec == SPEC.action
    assert seen.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (logs({"positon": 3, "speed": 1}), "observation 'position' is missing (did you mean"),
        (logs({"position": 4, "speed": 1}), "of shape (4,); accepted: float32 of shape (3,)"),
        (logs(actions=3), "vectors of 3 numbers; accepted: 2"),
        (logs(actions=0), "actions are classes; accepted: numbers"),
    ],
)
def test_what_does_not_fit_is_named(other, expected):
    with pytest.raises(DataError, match=re.escape(expected)):
        conform_to_spec(other, SPEC)


def test_all_faults_are_told_at_once():
    with pytest.raises(DataError) as raised:
        conform_to_spec(logs({"position": 4}, actions=1), SPEC)
    assert all(word in str(raised.value) for word in ("(4,)", "'speed'", "1 numbers", "some logs"))


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
