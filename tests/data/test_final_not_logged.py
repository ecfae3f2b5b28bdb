"""An episode may end without the observation after its last action: the action and its reward
count, and the last step is a placeholder that nothing looks at.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.data import Episode, build_card, load, stack_episodes, validate, write_rlds
from worldmodel.data.cache import open_cache, write_metadata
from worldmodel.data.loader import make_loader, pad_episodes
from worldmodel.data.long_episodes import split_long_episodes
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import DataError

KINDS = st.lists(st.tuples(st.integers(1, 7), st.booleans(), st.booleans()), min_size=1, max_size=6)


def episode(length: int, final_logged: bool, terminated: bool, number: int = 0) -> Episode:
    """Observations count the steps of episode `number`, rewards are 1, 2, ... ."""
    steps = np.arange(length + final_logged)
    return Episode(
        {"x": np.stack([np.full(len(steps), number), steps], 1)},
        actions=np.full((length, 1), 0.5),
        rewards=1.0 + np.arange(length),
        terminated=terminated,
        final_logged=final_logged,
    )


def dataset(kinds, folder=None):
    episodes = [episode(*kind, number) for number, kind in enumerate(kinds)]
    return stack_episodes(episodes, "test", folder=folder)


@settings(max_examples=40, deadline=None)
@given(KINDS)
def test_every_action_and_reward_is_kept(kinds):
    data = dataset(kinds)
    validate(data)
    assert data.num_transitions == sum(length for length, _, _ in kinds)
    assert data.returns().tolist() == [length * (length + 1) / 2 for length, _, _ in kinds]
    assert data.observed_lengths.tolist() == [length + logged for length, logged, _ in kinds]


@settings(max_examples=40, deadline=None)
@given(KINDS, st.integers(1, 4))
def test_only_logged_observations_are_counted(kinds, max_steps):
    """A selection, and episodes cut into pieces, count the same observations."""
    data = dataset(kinds)
    logged = [[number, step] for number, (length, final, _) in enumerate(kinds)
              for step in range(length + final)]  # fmt: skip
    assert np.concatenate(list(data.chunks(data.observations["x"]))).tolist() == logged
    changes = [x for part in data.step_differences(data.observations["x"]) for x in part.tolist()]
    assert changes == [[0, 1]] * (len(logged) - len(kinds))
    chosen = data.select(np.arange(len(kinds))[::-1])
    assert chosen.observed_lengths.tolist() == data.observed_lengths[::-1].tolist()
    assert chosen.compact().fingerprint() == chosen.fingerprint()
    whole = [episode(*kind, number) for number, kind in enumerate(kinds)]
    pieces = stack_episodes(split_long_episodes(whole, max_steps), "pieces")
    assert pieces.returns().sum() == data.returns().sum()
    assert len(pieces.placeholders) == len(data.placeholders)
    assert pieces.terminated.sum() == data.terminated.sum()
    found = np.concatenate(list(pieces.chunks(pieces.observations["x"])))
    assert np.unique(found, axis=0).tolist() == logged


def test_the_stored_and_the_native_form_read_the_same(tmp_path):
    kinds = [(4, True, True), (3, False, True), (1, False, False), (5, True, False)]
    data = dataset(kinds)
    folder = tmp_path / "stored"
    folder.mkdir()
    write_metadata(dataset(kinds, folder), folder)
    write_rlds(data, tmp_path / "native", "native")
    for read in (open_cache(folder), load(TFDSData(path=str(tmp_path / "native")))):
        assert read.final_logged.tolist() == [True, False, False, True]
        assert read.fingerprint() == data.fingerprint()
        assert read.spec() == data.spec()


def test_where_all_finals_are_logged_nothing_differs():
    data = dataset([(3, True, False), (2, True, True)])
    assert data.final_logged is None and pad_episodes(data).observed is None
    assert replace(data, final_logged=np.ones(2, bool)).fingerprint() == data.fingerprint()


@pytest.mark.parametrize("kind", ["device", "host"])
def test_windows_mark_the_step_that_was_not_observed(kind):
    data = dataset([(4, False, True), (2, True, False)])
    loader = make_loader(data, 4, length=3, seed=0, loader=kind)
    batch = loader.batch(loader.arrays(), loader.feed(0, 1), 0)
    loader.close()
    x = np.asarray(batch.observation["x"])
    placeholder = np.asarray(batch.is_last) & (x[..., 0] == 0)
    assert placeholder.any()
    assert np.array_equal(~np.asarray(batch.observed) & np.asarray(batch.mask), placeholder)
    assert np.asarray(batch.is_terminal)[placeholder].all()
    assert jax.tree.structure(batch) == jax.tree.structure(pad_episodes(data))


def test_the_card_counts_what_was_logged():
    card = build_card(dataset([(4, False, True), (3, True, False)]))
    assert card["unlogged_finals"] == 1
    assert card["observations"]["x"]["max"] == [1.0, 3.0]
    assert card["transitions"] == 7 and card["returns"]["max"] == 10.0


def test_observations_must_be_as_many_as_actions():
    wrong = replace(episode(4, True, False), final_logged=False)
    with pytest.raises(DataError, match="action has 4 steps, observation 'x' has 5"):
        stack_episodes([wrong], "test")
