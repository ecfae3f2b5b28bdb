"""Named arrays mean the same in NumPy archives and HDF5, and what is read obeys the system that
was logged: `next[0] = now[0] + 0.1 action`, `next[1:] = 0.9 now[1:]`, `reward = -|next[0]|`, with
resets 10 apart. So every transition is checked by its own arithmetic, and none may cross a reset.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.array_logs import (
    ENDS,
    FALSE,
    LENGTHS,
    TRUE,
    Arrays,
    Read,
    bare,
    check,
    marks,
    system,
    with_finals,
    written,
)
from worldmodel.errors import DataError


@pytest.fixture(params=["npz", "hdf5"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    return lambda arrays, **options: written(tmp_path, request.param, arrays, **options)


MARKS: dict[str, tuple[Arrays, list[bool]]] = {
    "terminals and timeouts": (
        {"terminals": marks(ENDS[:1]), "timeouts": marks(ENDS[1:])},
        [True, False, False],
    ),
    "terminations and truncations": (
        {"terminations": marks(ENDS[:1], float), "truncations": marks(ENDS[1:], np.uint8)},
        [True, False, False],
    ),
    "terminated and truncated by row": (
        {"terminated": marks(ENDS), "truncated": marks([])},
        TRUE,
    ),
    "truncations alone": ({"terminals": marks([]), "truncations": marks(ENDS)}, FALSE),
    "columns (N, 1)": ({"terminals": marks(ENDS)[:, None]}, TRUE),
    "terminal": ({"terminal": marks(ENDS)}, TRUE),
    "is_first and is_terminal": (
        {"is_first": marks([0, *ENDS[:-1] + 1]), "is_terminal": marks(ENDS[1:2])},
        [False, True, False],
    ),
    "discount": ({"discount": 1 - marks(ENDS, float)}, TRUE),
    "dones and time-outs": (
        {"dones": marks(ENDS), "timeouts": marks(ENDS[:1])},
        [False, True, True],
    ),
    "dones and masks": (
        {"dones": marks(ENDS), "masks": 1.0 - marks(ENDS[1:2])},
        [False, True, False],
    ),
    "episode_starts": ({"episode_starts": marks([0, *ENDS[:-1] + 1])}, FALSE),
    "episode_lengths": ({"episode_lengths": np.array(LENGTHS)}, FALSE),
    "episode_id": (
        {"episode_id": np.repeat([7, 3, 9], LENGTHS), "terminals": marks(ENDS[:1])},
        [True, False, False],
    ),
    "lengths and terminated by episode": (
        {"lengths": np.array(LENGTHS), "terminated": np.array([0, 1, 1])},
        [False, True, True],
    ),
}


@pytest.mark.parametrize("kind", MARKS)
def test_ends_are_read_by_what_they_mean(read: Read, kind: str) -> None:
    given, terminal = MARKS[kind]
    check(read(bare() | given), terminal, logged=False)
    check(read(system() | given), terminal, logged=True)


@pytest.mark.parametrize("name", ["next_obs", "next_states", "s_next", "observations_next"])
def test_names_of_next_observations_and_rewards(read: Read, name: str) -> None:
    arrays = bare() | {name: system()["next_observations"], "terminals": marks(ENDS)}
    arrays["reward"] = arrays.pop("rewards")
    check(read(arrays), TRUE, logged=True)


@pytest.mark.parametrize(("name", "negated"), [("dones", ""), ("masks", "not_")])
def test_dones_and_masks_are_asked_and_answered(read: Read, name: str, negated: str) -> None:
    given = {name: marks(ENDS, float) if not negated else 1 - marks(ENDS, float)}
    for arrays, logged in ((bare(), False), (system(), True)):
        with pytest.raises(DataError, match=f"{name}: {negated}terminal}} reads 3 terminal"):
            read(arrays | given)
        check(read(arrays | given, roles={name: f"{negated}terminal"}), TRUE, logged)
        check(read(arrays | given, roles={name: f"{negated}end"}), FALSE, logged)


def test_numbers_of_episodes_are_checked(read: Read) -> None:
    mixed = {"traj_id": np.tile([0, 1], 6)}
    with pytest.raises(DataError, match=r"traj_id is 0 again in row 2.*traj_id: ignore"):
        read(bare() | mixed)
    two = {"episode": np.arange(12), "episode_id": np.repeat([0, 1, 2], LENGTHS)}
    with pytest.raises(DataError, match=r"episode, episode_id are episode all; .*ignore}"):
        read(bare() | two, roles=dict.fromkeys(two, "episode"))
    other = {"worker": np.repeat([b"a", b"b", b"c"], LENGTHS), "terminals": marks([5])}
    with pytest.raises(DataError, match=r"terminals mark 1 rows .* by worker \(first: 5\)"):
        read(bare() | other, roles={"worker": "episode"})


def test_roles_name_any_field(read: Read) -> None:
    arrays = system()
    arrays = {name: arrays[key] for name, key in zip("oars", arrays, strict=True)}
    with pytest.raises(DataError, match=r"has no observations and no actions.*data\.roles"):
        read(arrays)
    roles = {"o": "observation", "a": "action", "r": "reward", "s": "next_observation"}
    logs = read(arrays, roles=roles)
    assert list(logs.observations) == ["o"] and logs.final_logged is None
    arrays["observations"] = arrays.pop("o")
    roles = {"a": "action", "r": "reward", "s": "next_observation"}
    check(read(arrays, roles=roles), FALSE, logged=True)
    with pytest.raises(DataError, match=r"data\.roles names b; accepted: the fields"):
        read(arrays, roles={"a": "action", "b": "reward"})
    goals = arrays | {"goal": arrays["observations"], "next_goal": arrays["s"]}
    roles |= {"goal": "observation", "next_goal": "next_observation"}
    with pytest.raises(DataError, match=r"holds (s, goal|goal, s); accepted: "):
        read(goals, roles=roles)
    goals["next_observations"] = goals.pop("s")
    both = read(goals, roles={k: v for k, v in roles.items() if k != "s"})
    assert {*both.observations} == {"observation", "goal"}


def test_next_observations_tell_of_ends_that_are_not_marked(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    zeros = {"terminals": marks([], float), "timeouts": marks([], float)}
    with caplog.at_level(logging.WARNING):
        check(read(system() | zeros), FALSE, logged=True)
    assert "after 2 rows that terminals, timeouts do not mark" in caplog.text


@pytest.mark.parametrize("last", [0, -1])  # of the next observations: as np.roll, or repeated
def test_next_observations_made_by_shifting_are_not_those_of_ends(
    read: Read, caplog: pytest.LogCaptureFixture, last: int
) -> None:
    observed = system()["observations"]
    shifted = {"next_observations": np.concatenate([observed[1:], observed[last][None]])}
    for name, terminal in (("terminals", TRUE), ("timeouts", FALSE)):
        with caplog.at_level(logging.WARNING):
            check(read(system() | shifted | {name: marks(ENDS)}), terminal, logged=False)
        assert "next_observations is that of the next row at 2 ends" in caplog.text


def test_a_record_that_goes_on_after_a_cut_keeps_its_next_observation(read: Read) -> None:
    """A time limit without a reset: the steps over the cuts are like all others."""
    arrays = system((12,))
    logs = read(arrays | {"timeouts": marks(ENDS)})
    assert logs.final_logged is None and (logs.lengths - 1).tolist() == list(LENGTHS)
    np.testing.assert_array_equal(
        logs.observations["observation"][logs.last_steps], arrays["next_observations"][ENDS]
    )


def test_marks_some_rows_late_are_a_fault_that_counts(read: Read) -> None:
    late = {"terminals": marks(ENDS[:-1] + 2)}
    with pytest.raises(DataError) as caught:
        read(system() | late)
    message = str(caught.value)
    assert "2 marked rows (first: 5)" in message and "2 rows (first: 3)" in message
    assert "2 of the marks fit next_observations if they are 2 rows late" in message
    check(read(system() | late, roles={"terminals": "ignore"}), FALSE, logged=True)
    assert "data.roles={next_observations: ignore} reads the marks" in message


def test_flags_that_stay_on_are_no_ends(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    flags = {"success": marks([*ENDS, *ENDS - 1, *ENDS - 2])}
    roles = {"success": "terminal"}
    with pytest.raises(DataError, match=r"success mark 6 rows \(first: 1\) before another"):
        read(system() | flags, roles=roles)
    with caplog.at_level(logging.WARNING):
        read(bare() | flags, roles=roles)
    assert "success mark 7 rows directly after another" in caplog.text


def test_masks_may_be_inside_a_record_but_not_late(read: Read) -> None:
    inside = read(system() | {"masks": 1 - marks([1], float)})
    assert (inside.lengths - 1).tolist() == [2, 2, 3, 5]
    assert inside.terminated.tolist() == [True, False, False, False]
    with pytest.raises(DataError, match="2 of the marks fit next_observations if they are 1 row"):
        read(system() | {"masks": 1 - marks(ENDS[:-1] + 1, float)})


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.5, 2.0])
def test_marks_are_true_or_false(read: Read, value: float) -> None:
    bad = marks(ENDS, float)
    bad[5] = value
    for name in ("terminals", "timeouts", "dones", "masks"):
        with pytest.raises(DataError, match=rf"{name} is {value} in row 5; .*{name}: ignore"):
            read(bare() | {name: bad})


def test_words_are_no_marks(read: Read) -> None:
    words = np.array([b"False", b"False", b"True"])
    with pytest.raises(DataError, match=r"terminated is b'False' in row 0"):
        read(bare() | {"lengths": np.array(LENGTHS), "terminated": words})


def test_the_last_row_keeps_its_reward(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    """Sparse rewards of goals, as in D4RL's antmaze, which has no next observations."""
    rewards = marks(ENDS, np.float32)
    with caplog.at_level(logging.WARNING):
        logs = read(bare() | {"rewards": rewards, "terminals": marks(ENDS), "goal": rewards})
    assert logs.returns().tolist() == [1, 1, 1] and logs.terminated.all()
    assert "goal: as long as the actions (12 rows), but not read" in caplog.text
    assert "data.roles={goal: ignore}" in caplog.text


def test_terminals_of_ogbench_mark_final_observations(read: Read) -> None:
    rows, final, inner = with_finals(bare())
    alone = {key: rows[key] for key in ("observations", "actions")}
    logs = read(alone | {"terminals": marks(final, np.float32, 15)})
    assert (logs.lengths - 1).tolist() == list(LENGTHS) and not logs.terminated.any()
    assert read(
        alone | {"terminals": marks(final, count=15)}, roles={"terminals": "terminal"}
    ).terminated.all()
    # One task: `masks` are 0 where it ended, here inside a record too; rewards end in -1.
    rows, final, inner = with_finals(bare(), pad=-1.0)
    both = marks([*final, *final - 1], np.float32, 15)
    compact = {"terminals": both, "valids": 1.0 - marks(final, float, 15)}
    masks = {"masks": 1.0 - marks([1, 8 + 1 - 1], float, 15)}
    parts, ended = (2, 2, 3, 5), [True, False, True, False]
    logs = read(rows | compact | masks)
    assert (logs.lengths - 1).tolist() == list(parts) and logs.terminated.tolist() == ended
    assert logs.final_logged is None
    regular = {"terminals": marks(ENDS, float), "masks": 1.0 - marks([1, 6], float)}
    again = read(system() | regular)
    np.testing.assert_array_equal(
        again.observations["observation"], logs.observations["observation"]
    )
    np.testing.assert_array_equal(again.rewards, logs.rewards)
    assert again.terminated.tolist() == ended


def test_rows_of_rlds_hold_final_observations(read: Read) -> None:
    rows, final, _ = with_finals(bare())
    ends = {"is_last": marks(final, count=15), "is_terminal": marks(final[:1], count=15)}
    check(read(rows | ends), [True, False, False], logged=True)
    rows["rewards"][final[0]] = 100
    with pytest.raises(DataError, match=r"is_last marks 3 rows, 1 of them with a reward.*: end}"):
        read(rows | ends)
    check(read(rows | ends, roles={"is_last": "final"}), [True, False, False], logged=True)
    assert read(rows | ends, roles={"is_last": "end"}).returns()[0] > 80


def test_rows_of_rlds_are_known_without_is_last(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    rows, final, _ = with_finals(bare())
    first = marks([0, *final[:-1] + 1], count=15)
    with caplog.at_level(logging.WARNING):
        check(read(rows | {"is_first": first}), FALSE, logged=True)
    assert "no last row of the 3 episodes has an action or a reward" in caplog.text
    rows["actions"][final[1]] = 0.5
    assert (read(rows | {"is_first": first}).lengths - 1).tolist() == [5, 4, 6]


def test_a_replay_buffer_of_stable_baselines(read: Read) -> None:
    """One environment is an axis of its own; `dones` hold time-outs, which `timeouts` tell."""
    buffer = {key: value[:, None] for key, value in system().items()}
    buffer["rewards"] = system()["rewards"][:, None]
    ends = {"dones": marks(ENDS, np.float32)[:, None], "timeouts": marks(ENDS[1:], float)[:, None]}
    check(read(buffer | ends), [True, False, False], logged=True)


def test_a_record_has_its_end_as_a_single_value(read: Read) -> None:
    for ended in (True, False):
        logs = read(system((4,)) | {"terminated": ended, "episode": 17})
        check(logs, [ended], True, (4,))
    with pytest.raises(DataError, match="rewards is a single number; accepted: arrays of rows"):
        read(system((4,)) | {"rewards": 1.0})


def test_one_more_observation_needs_no_lengths(read: Read) -> None:
    rows, _, _ = with_finals(bare())
    arrays = bare() | {"observations": rows["observations"]}
    check(read(arrays | {"terminals": marks(ENDS)}), TRUE, logged=True)
    late = {"lengths": np.array(LENGTHS), "terminals": marks([2])}
    with pytest.raises(DataError, match=r"mark 1 rows that are not the last.*\(first: 2\)"):
        read(arrays | late)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=5))
def test_every_layout_gives_the_same_transitions(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[tuple[int, bool]]
) -> None:
    lengths, ended = tuple(n for n, _ in episodes), [end for _, end in episodes]
    last, count = np.cumsum(lengths) - 1, sum(lengths)
    terminal, cut = (marks(last[np.array(ended) == e], count=count) for e in (True, False))
    folder = tmp_path_factory.mktemp("logs")
    for kind in ("npz", "hdf5"):
        for ends in (
            {"terminals": terminal, "timeouts": cut},
            {"done": terminal | cut, "truncations": cut},
            {"lengths": np.array(lengths), "terminated": np.array(ended)},
        ):
            check(written(folder, kind, system(lengths) | ends), ended, True, lengths)
            check(written(folder, kind, bare(lengths) | ends), ended, False, lengths)


def test_actions_of_several_names_are_columns(read: Read) -> None:
    rows, rng = sum(LENGTHS), np.random.default_rng(0)
    force, gear = rng.uniform(-1, 1, (rows, 2)), rng.integers(0, 3, rows)
    log = {"observations": np.ones((rows, 2)), "lengths": np.array(LENGTHS)}
    named = log | {"actions/force": force, "actions/gear": gear}
    with pytest.raises(DataError, match=r"actions/gear hold integers .*data.classes=\[0,0,3\]"):
        read(named)
    dataset = read(named, classes=[0, 0, 3])
    assert dataset.action_spec.classes == (0, 0, 3)
    steps = np.setdiff1d(np.arange(len(dataset.actions)), dataset.last_steps)
    np.testing.assert_allclose(dataset.actions[steps], np.column_stack([force, gear]), rtol=1e-6)
    choices = read(log | {"actions/a": gear, "actions/b": gear > 0}, classes=[3, 2])
    assert choices.action_spec.classes == (3, 2)
