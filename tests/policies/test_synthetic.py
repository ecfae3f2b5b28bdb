"""Imagined rows: what they cost, where they end, and which actions lead to them."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.nn.distributions import Normal
from worldmodel.policies.networks import DeterministicActor, NormalActor
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.synthetic import ImaginedTransitions, generate_transitions

KEY, COUNT, HORIZON = jax.random.key(0), 40, 3
SPEC = DataSpec(
    {"x": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3, (-1.0,) * 3, (1.0,) * 3)},
    ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0)),
    reward_mean_std=(0.0, 2.0),
)
MODEL = models.build(EnsembleOptions(num_members=3, num_elites=2, units=8, layers=1), SPEC, KEY)
ACTOR = NormalActor(3, 2, 8, 1, rngs=nnx.Rngs(params=1))


def windows() -> Window:
    """Two rows each; the last ones hold nothing that follows their first row."""
    rng, no = np.random.default_rng(0), np.zeros((COUNT, 2), bool)
    last, mask = no.copy(), ~no
    last[-5:-2, 0] = True
    mask[-2:, 1] = False
    return Window(
        {"x": rng.normal(size=(COUNT, 2, 3)).astype(np.float32)},
        rng.uniform(-1, 1, (COUNT, 2, 2)).astype(np.float32),
        rng.normal(size=(COUNT, 2)).astype(np.float32),
        no, last, no, mask,
    )  # fmt: skip


def made(**changes: object) -> ImaginedTransitions:
    options = replace(OfflineOptions(name="any", horizon=HORIZON), **changes)
    run = jax.jit(lambda key: generate_transitions(options, SPEC, MODEL, ACTOR, windows(), key))
    return run(KEY)


@jax.jit
def members(features: jax.Array, action: jax.Array) -> Normal:
    return MODEL.predict_members(MODEL.state_from_features(features), action)


def spread(features: jax.Array, action: jax.Array) -> np.ndarray:
    """Standard deviation of the members' mixture, root of the mean over what they predict."""
    mixed = members(features, action)
    location, scale = np.asarray(mixed.location), np.asarray(mixed.scale)
    mixture = (scale**2 + location**2).mean(0) - location.mean(0) ** 2
    return np.sqrt(mixture.mean(-1))


def test_what_is_usual_on_logs_costs_the_scale_in_deviations_of_the_reward() -> None:
    """And what a rollout does after its end is not counted among the costs."""
    free, paid = made(), made(penalty="ensemble_std", penalty_scale=0.7)
    given = windows()
    usual = spread(given.observation["x"][:-5, 0], given.action[:-5, 0]).mean()
    cost = 0.7 * 2.0 * spread(free.transitions.features, free.transitions.action) / usual
    valid = np.asarray(free.valid)
    assert 0 < valid.sum() < (COUNT - 5) * HORIZON  # some rollouts end
    np.testing.assert_allclose(
        free.transitions.reward - paid.transitions.reward, cost, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(paid.statistics["imagined/penalty"], cost[valid].mean(), rtol=1e-4)
    assert "imagined/penalty" not in free.statistics


def going_on(ended: np.ndarray) -> np.ndarray:
    """(COUNT, HORIZON) rows before which nothing ended, of the starts that are known."""
    before = np.cumsum(ended, 1) - ended
    return (before == 0) & (np.arange(COUNT) < COUNT - 5)[:, None]


def test_a_rollout_counts_up_to_the_end_that_the_model_gives_it() -> None:
    free = made()
    end = jax.jit(lambda features: MODEL.terminal(MODEL.state_from_features(features)).mean())
    chance = np.asarray(end(free.transitions.next_features)).reshape(COUNT, HORIZON)
    ended = np.asarray(jax.random.uniform(jax.random.split(KEY, 3)[2], chance.shape)) >= 1 - chance
    valid = np.asarray(free.valid).reshape(COUNT, HORIZON)
    np.testing.assert_array_equal(np.asarray(free.transitions.terminal).reshape(ended.shape), ended)
    np.testing.assert_array_equal(valid, going_on(ended))
    assert (valid & ended).any() and not valid[-5:].any()
    np.testing.assert_allclose(free.statistics["imagined/valid"], valid.mean(), rtol=1e-5)
    reward = np.asarray(free.transitions.reward)[valid.reshape(-1)].mean()
    np.testing.assert_allclose(free.statistics["imagined/reward"], reward, rtol=1e-4, atol=1e-6)


def farthest(features: jax.Array, action: jax.Array) -> np.ndarray:
    """The largest distance between the means of two members."""
    means = np.asarray(members(features, action).location)
    return np.max([np.linalg.norm(a - b, axis=-1) for a in means for b in means], 0)


def test_a_rollout_is_cut_where_uncertainty_first_exceeds_its_quantile_on_logs() -> None:
    """What comes after is left out too, and a cut is no end."""
    free, cut = made(), made(truncation_quantile=0.9, truncation_measure="max_pairwise")
    given = windows()
    limit = np.quantile(farthest(given.observation["x"][:-5, 0], given.action[:-5, 0]), 0.9)
    beyond = (farthest(free.transitions.features, free.transitions.action) > limit).reshape(
        COUNT, HORIZON
    )
    known, ended = (
        np.cumsum(beyond, 1) == 0,
        np.asarray(free.transitions.terminal).reshape(COUNT, HORIZON),
    )
    valid = np.asarray(cut.valid).reshape(COUNT, HORIZON)
    np.testing.assert_array_equal(valid, going_on(ended) & known)
    assert 0 < valid.sum() < np.asarray(free.valid).sum()
    assert (going_on(ended) & ~beyond & ~known).any()  # less uncertain again, after a cut
    np.testing.assert_array_equal(cut.transitions.terminal, free.transitions.terminal)
    np.testing.assert_allclose(cut.statistics["imagined/truncated"], 1 - known.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", [DeterministicActor, NormalActor])
def test_actions_are_drawn_within_their_range(kind: type) -> None:
    """A model would be asked for what no environment does."""
    actor = kind(3, 2, 8, 1, rngs=nnx.Rngs(params=0))
    features = 10 * jax.random.normal(KEY, (200, 3))
    drawn = actor(features).sample(KEY)
    assert float(jnp.abs(drawn).max()) == 1.0
    assert float(jnp.abs(drawn).min()) < 0.5
