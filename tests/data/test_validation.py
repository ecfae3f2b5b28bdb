"""Invalid datasets are refused with every error, by source, episode, step and field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from worldmodel.data import (
    ActionSpec,
    DataSpec,
    Episode,
    ObservationSpec,
    Trajectories,
    stack_episodes,
    validate,
)  # fmt: skip
from worldmodel.errors import DataError

LENGTHS = np.array([3, 4, 5])


def logs(**changes: Any) -> Trajectories:
    """Three valid episodes of 3, 4 and 5 steps, with the given fields replaced."""
    valid = Trajectories(
        observations={
            "x": np.zeros((12, 2), np.float32),
            "image": np.zeros((12, 4, 4, 1), np.uint8),
        },
        actions=np.zeros((12, 1), np.float32),
        rewards=np.zeros(12, np.float32),
        lengths=LENGTHS,
        terminated=np.zeros(3, bool),
        action_spec=ActionSpec(False, 1, (-1.0,), (2.0,)),
        source="logs.file",
    )
    return dataclasses.replace(valid, **changes)


def classes(**changes: Any) -> Trajectories:
    return logs(
        **{"actions": np.zeros(12, np.int32), "action_spec": ActionSpec(True, 3), **changes}
    )


def put(value: np.ndarray, row: Any, entry: Any) -> np.ndarray:
    value = value.copy()
    value[row] = entry
    return value


def errors(build: Callable[[], Trajectories]) -> str:
    with pytest.raises(DataError) as caught:
        validate(build())
    assert str(caught.value).startswith("logs.file: ")
    return str(caught.value)


VECTORS, ACTIONS, REWARDS = np.zeros((12, 2), np.float32), logs().actions, np.zeros(12, np.float32)
CLASSES = np.zeros(12, np.int32)


def test_a_valid_dataset_passes():
    validate(logs())
    validate(classes())
    validate(logs(rewards=None))
    validate(logs(actions=put(ACTIONS, slice(None), 2.00001)))  # rounding is accepted
    validate(logs(actions=put(ACTIONS, [2, 6, 11], 50)))  # padding has no bounds
    validate(classes(actions=put(CLASSES, [2, 6, 11], -1)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: logs(observations={"x": put(VECTORS, (5, 1), np.nan)}),
            "observation 'x' is not finite: episode 1, step 2;",
        ),
        (
            lambda: logs(observations={"x": put(VECTORS, 11, np.inf)}),
            "observation 'x' is not finite: episode 2, step 4;",
        ),
        (lambda: logs(actions=put(ACTIONS, 0, np.nan)), "action is not finite: episode 0, step 0"),
        (
            lambda: logs(rewards=put(REWARDS, 3, -np.inf)),
            "reward is not finite: episode 1, step 0",
        ),
        (
            lambda: logs(rewards=put(REWARDS, 6, 1)),
            "reward after the last transition: episode 1, step 3; accepted: 0",
        ),
        (
            lambda: logs(actions=put(ACTIONS, 4, 2.1)),
            "action is outside its bounds: episode 1, step 1; accepted: low [-1.0] to high [2.0]",
        ),
        (
            lambda: classes(actions=put(CLASSES, 8, 3)),
            "action is not a class: episode 2, step 1; accepted: 0 to 2",
        ),
        (lambda: classes(actions=put(CLASSES, 8, -1)), "action is not a class: episode 2, step 1"),
        (lambda: logs(lengths=np.array([], np.int64)), "no episodes; accepted: at least one"),
        (
            lambda: logs(lengths=np.array([1, 6, 5])),
            "episode 0 has 1 step(s); accepted: at least 2",
        ),
        (
            lambda: logs(lengths=np.array([3, 4, 6])),
            "observation 'x' has 12 steps; accepted: 13, the sum of lengths",
        ),
        (lambda: logs(rewards=REWARDS[:11]), "reward has 11 steps; accepted: 12"),
        (lambda: logs(actions=ACTIONS[:11]), "action has 11 steps; accepted: 12"),
        (lambda: logs(terminated=np.zeros(2, bool)), "terminated has 2 entries; accepted: 3"),
        (lambda: logs(observations={}), "no observations"),
        (
            lambda: logs(observations={"x": np.zeros((12, 2))}),
            "observation 'x' is float64 of shape (12, 2); accepted: float32",
        ),
        (
            lambda: logs(observations={"x": np.zeros(12, np.float32)}),
            "observation 'x' is float32 of shape (12,)",
        ),
        (lambda: logs(observations={"x": np.zeros((12, 2), np.uint8)}), "observation 'x' is uint8"),
        (
            lambda: logs(rewards=np.zeros((12, 1), np.float32)),
            "reward is float32 of shape (12, 1); accepted: float32 (steps,)",
        ),
        (
            lambda: logs(actions=np.zeros((12, 2), np.float32)),
            "action is float32 of shape (12, 2); accepted: float32 (steps, 1)",
        ),
        (
            lambda: classes(actions=np.zeros(12, np.int64)),
            "action is int64 of shape (12,); accepted: int32",
        ),
        (
            lambda: logs(observations={"x": put(VECTORS, 4, 2e38)}),
            "observation 'x' is beyond 1e+38: episode 1, step 1; accepted: numbers of",
        ),
        (lambda: logs(actions=list(ACTIONS)), "actions is of type list; accepted: a NumPy array"),
        (lambda: logs(observations=VECTORS), "observations is of type ndarray; accepted: a dict"),
        (lambda: logs(observations={3: VECTORS}), "observations maps int to ndarray; accepted:"),
        (
            lambda: logs(action_spec=None),
            "action_spec is of type NoneType; accepted: an",
        ),
        (lambda: logs(lengths=LENGTHS / 1), "lengths is float64 of shape (3,); accepted: integers"),
        (lambda: logs(terminated=LENGTHS), "terminated is int64 of shape (3,); accepted: bool"),
        (lambda: logs(names=("a", "b")), "names has 2 entries; accepted: 3, one per episode"),
        (
            lambda: logs(episode_starts=np.array([0, 3])),
            "episode_starts has 2 entries; accepted:",
        ),
        (
            lambda: logs(episode_starts=np.array([0, 3, 9])),
            "episode 2 is steps 9 to 13; accepted: 0 to 11",
        ),
    ],
)
def test_an_error_names_the_place_and_what_is_accepted(build, words):
    message = errors(build)
    assert words in message
    assert "1 error in the data" in message or "lengths" in words


def test_all_errors_are_reported_at_once_and_many_steps_share_a_line():
    message = errors(
        lambda: logs(
            observations={"x": put(VECTORS, slice(None), np.nan)},
            rewards=put(REWARDS, 1, np.nan),
            actions=put(ACTIONS, 1, -5),
        )
    )
    assert "3 errors in the data" in message and message.count("\n") == 3
    assert "episode 0, step 0; episode 0, step 1; episode 0, step 2; and 9 more steps" in message


def test_a_long_list_of_errors_is_shortened():
    message = errors(lambda: logs(lengths=np.ones(12, np.int64), terminated=np.zeros(12, bool)))
    assert "12 errors" in message and message.endswith("... and 2 more")
    assert "episode 9 has" in message and "episode 10 has" not in message


VECTOR = {"shape": (2,), "dtype": "float32"}
OPEN = ActionSpec(False, 1, (-np.inf,), (1.0,))  # a bound that the data have to give


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ActionSpec(True, 0), "action size is 0; accepted: at least 1"),
        (lambda: ActionSpec(True, 2.0), "action size is 2.0"),
        (lambda: ActionSpec(False, 1, (1.0,), (1.0,)), "action 0 has low 1.0 and high 1.0"),
        (lambda: ActionSpec(False, 1, (1e9,), (1e9 + 1,)), "accepted: finite, low < high"),
        (lambda: ActionSpec(False, 1, (np.inf,), (np.inf,)), "action 0 has low inf"),
        (lambda: ActionSpec(False, 1, (-np.inf,), (-np.inf,)), "action 0 has low -inf"),
        (lambda: ActionSpec(False, 1, (np.nan,), (np.inf,)), "action 0 has low nan"),
        (lambda: ActionSpec(False, 1, (0.0,), (1e300,)), "action 0 has low 0.0 and high 1e+300"),
        (
            lambda: ActionSpec(True, 2, parts=(("a", ActionSpec(True, 2)),)),
            "has 1 parts of 1 columns",
        ),
        (
            lambda: DataSpec({"x": ObservationSpec(**VECTOR)}, OPEN),
            "low [-inf], high [1.0]; accepted",
        ),
        (lambda: ActionSpec(False, 1, (-3e38,), (3e38,)), "action 0 has low -3e+38"),
        (lambda: ActionSpec(False, 1), "action has 0 low, 0 high bounds; accepted: 1"),
        (lambda: ActionSpec(False, 1, -1.0, 1.0), "action has 1 low, 1 high bounds; accepted: 1"),
        (lambda: ActionSpec(True, 2, (0.0, 0.0), (1.0, 1.0)), "has 2 low, 2 high bounds"),
        (lambda: ObservationSpec((2,), "uint8"), "observation is uint8 of shape (2,); accepted"),
        (lambda: ObservationSpec((2, 3), "float32"), "observation is float32 of shape (2, 3)"),
        (lambda: ObservationSpec((0,), "float32"), "observation is float32 of shape (0,)"),
        (lambda: ObservationSpec(**VECTOR, mean=(0.0,)), "mean has 1 numbers; accepted: one per"),
        (lambda: ObservationSpec(**VECTOR, normalization="z"), "accepted: none, standardize"),
        (lambda: ObservationSpec(**VECTOR, normalization="min_max"), "needs mean, std, low and"),
        (lambda: DataSpec({}, ActionSpec(True, 2)), "a DataSpec needs observations"),
        (lambda: DataSpec({"x": VECTOR}, ActionSpec(True, 2)), "a dict of ObservationSpec"),
        (lambda: DataSpec({"x": ObservationSpec(**VECTOR)}, 2), "and action, an ActionSpec"),
    ],
)
def test_a_spec_that_describes_no_data_is_refused(build, words):
    with pytest.raises(DataError, match=re.escape(words)):
        build()


# -------------------------------------------------------------------------------------- stack


def episode(rows: int = 3, **changes: Any) -> Episode:
    valid = Episode(
        observations={"x": np.arange(2.0 * rows).reshape(rows, 2)},
        actions=np.linspace(-1, 1, rows)[:, None],
        rewards=np.ones(rows),
        terminated=False,
    )
    return dataclasses.replace(valid, **changes)


def test_episodes_with_t_or_t_plus_one_actions_stack_equally_and_are_padded_with_zeros():
    stacked = stack_episodes(
        [
            episode(3),
            episode(4, actions=np.full((3, 1), 0.25), rewards=np.ones(3), terminated=True),
        ],
        "logs.file",
    )
    validate(stacked)
    assert stacked.lengths.tolist() == [3, 4] and stacked.terminated.tolist() == [False, True]
    assert stacked.rewards.tolist() == [1, 1, 0, 1, 1, 1, 0]
    assert stacked.actions[:, 0].tolist() == [-1, 0, 0, 0.25, 0.25, 0.25, 0]
    assert stacked.action_spec == ActionSpec(False, 1, (-1.0,), (0.25,))


def test_integer_actions_are_classes_unless_the_spec_says_otherwise():
    one = episode(3, actions=np.array([2, 0, 9]))
    assert stack_episodes([one], "logs.file").action_spec == ActionSpec(True, 3)
    bounds = ActionSpec(False, 1, (0.0,), (2.0,))
    stacked = stack_episodes([one], "logs.file", bounds)
    assert stacked.actions.dtype == np.float32 and stacked.actions.tolist() == [[2], [0], [0]]


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (
            {"observations": {"x": np.zeros((3, 3))}},
            "episode 1: observation 'x' has shape (3,), episode 0 has (2,)",
        ),
        (
            {"observations": {"y": np.zeros((3, 2))}},
            "episode 1: observation 'x' is missing, episode 0 has it",
        ),
        (
            {"observations": {"x": np.zeros((3, 2), str)}},
            "episode 1: observation 'x' is <U1; accepted: numbers",
        ),
        (
            {"observations": {"x": [[0.0], [0.0, 1.0]]}},
            "episode 1: observation 'x' is object; accepted: numbers",
        ),
        (
            {"observations": {"x": np.zeros((3, 2, 2, 3), np.uint8)}},
            "episode 1: observation 'x' has shape (2, 2, 3)",
        ),
        (
            {"actions": np.zeros(3, int)},
            "episode 1: action holds single integers, episode 0 floats",
        ),
        (
            {"actions": np.zeros((5, 1))},
            "episode 1: action has 5 steps, observation 'x' has 3; accepted: 2 or 3",
        ),
        (
            {"rewards": np.zeros(1)},
            "episode 1: reward has 1 steps, observation 'x' has 3; accepted: 2 or 3",
        ),
        ({"rewards": None}, "episode 1: reward is missing, episode 0 has it"),
        (
            {"actions": np.zeros((3, 2)), "name": "b.npz"},
            "b.npz: action has shape (2,), episode 0 has (1,)",
        ),
    ],
)
def test_an_episode_that_differs_from_the_first_is_reported(odd, words):
    with pytest.raises(DataError) as caught:
        stack_episodes([episode(), episode(**odd)], "logs.file")
    assert str(caught.value).startswith("logs.file: ") and words in str(caught.value)


def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="logs.file: no episodes"):
        stack_episodes([], "logs.file")
