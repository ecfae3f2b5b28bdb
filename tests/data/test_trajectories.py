"""Episodes are selected, summed and split as a whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import ActionSpec, Trajectories, split

EPISODE_LENGTHS = st.lists(st.integers(2, 9), min_size=1, max_size=12)


def episodes_of(lengths: list[int]) -> Trajectories:
    """Every step encodes its episode and position; the reward is 1 + the episode, padding 0."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    row = np.concatenate([np.arange(length) for length in lengths])
    last = row == np.repeat(lengths, lengths) - 1
    return Trajectories(
        observations={"place": np.stack([episode, row], axis=1).astype(np.float32)},
        actions=np.where(last, 0, episode % 3).astype(np.int32),
        rewards=np.where(last, 0, 1 + episode).astype(np.float32),
        lengths=np.array(lengths),
        terminated=np.arange(len(lengths)) % 2 == 0,
        action_spec=ActionSpec(True, 3),
        source="test",
    )


def identities(trajectories: Trajectories) -> list[int]:
    """The episodes, identified by their steps, which are checked to be complete and in order."""
    found = []
    for start, length in zip(trajectories.offsets, trajectories.lengths, strict=True):
        place = trajectories.observations["place"][start : start + length]
        assert (place[:, 0] == place[0, 0]).all() and (place[:, 1] == np.arange(length)).all()
        found.append(int(place[0, 0]))
    return found


@settings(max_examples=25, deadline=None)
@given(EPISODE_LENGTHS, st.data())
def test_select_returns_whole_episodes_in_the_given_order(lengths, data):
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    selected = episodes_of(lengths).select(np.array(chosen))
    assert identities(selected) == chosen
    assert selected.terminated.tolist() == [episode % 2 == 0 for episode in chosen]
    assert selected.num_transitions == sum(lengths[episode] - 1 for episode in chosen)


@settings(max_examples=25, deadline=None)
@given(EPISODE_LENGTHS)
def test_a_return_sums_the_rewards_of_its_own_episode(lengths):
    expected = [(1 + episode) * (length - 1) for episode, length in enumerate(lengths)]
    assert episodes_of(lengths).returns().tolist() == expected


@settings(max_examples=25, deadline=None)
@given(EPISODE_LENGTHS, st.floats(0, 0.9))
def test_a_split_is_disjoint_and_complete(lengths, holdout):
    everything = episodes_of(lengths)
    training, held_out = (identities(part) for part in split(everything, holdout))
    if len(lengths) == 1 or holdout == 0:
        assert training == held_out == list(range(len(lengths)))
        return
    assert training and held_out
    assert sorted(training + held_out) == list(range(len(lengths)))
    again = [identities(part) for part in split(everything, holdout)]
    assert again == [training, held_out]


@settings(max_examples=25, deadline=None)
@given(EPISODE_LENGTHS, st.data())
def test_step_differences_never_cross_episodes(lengths, data):
    """A step changes the position by one and never the episode; padding is not a reward."""
    chosen = data.draw(st.permutations(range(len(lengths))))
    spec = episodes_of(lengths).select(np.array(chosen)).spec()
    assert spec.observations["place"].delta_rms == (0.0, 1.0)
    rewards = np.repeat(1.0 + np.arange(len(lengths)), np.array(lengths) - 1)
    expected = [rewards.mean(), rewards.std() or 1.0]
    np.testing.assert_allclose(spec.reward_mean_std, expected, rtol=1e-6, atol=1e-7)
