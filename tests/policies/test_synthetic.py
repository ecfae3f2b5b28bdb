"""Imagined transitions: penalties, truncation, ends and actions."""

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
    """Two steps each; the last five windows have no second step."""
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


def generate(**changes: object) -> ImaginedTransitions:
    options = replace(OfflineOptions(name="any", horizon=HORIZON), **changes)
    run = jax.jit(lambda key: generate_transitions(options, SPEC, MODEL, ACTOR, windows(), key))
    return run(KEY)


@jax.jit
def members(features: jax.Array, action: jax.Array) -> Normal:
    return MODEL.predict_members(MODEL.state_from_features(features), action)


def spread(features: jax.Array, action: jax.Array) -> np.ndarray:
    """Standard deviation of the mixture of members: the root of its mean variance."""
    mixed = members(features, action)
    location, scale = np.asarray(mixed.location), np.asarray(mixed.scale)
    mixture = (scale**2 + location**2).mean(0) - location.mean(0) ** 2
    return np.sqrt(mixture.mean(-1))


def test_penalties_are_calibrated_on_the_dataset() -> None:
    """The mean uncertainty of the dataset costs `penalty_scale` standard deviations of the reward.
    Steps after the end do not count in the mean penalty.
    """
    plain, penalized = generate(), generate(penalty="ensemble_std", penalty_scale=0.7)
    given = windows()
    typical = spread(given.observation["x"][:-5, 0], given.action[:-5, 0]).mean()
    penalty = 0.7 * 2.0 * spread(plain.transitions.features, plain.transitions.action) / typical
    valid = np.asarray(plain.valid)
    assert 0 < valid.sum() < (COUNT - 5) * HORIZON  # some rollouts end
    np.testing.assert_allclose(
        plain.transitions.reward - penalized.transitions.reward, penalty, rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        penalized.statistics["imagined/penalty"], penalty[valid].mean(), rtol=1e-4
    )
    assert "imagined/penalty" not in plain.statistics


def before_the_end(ended: np.ndarray) -> np.ndarray:
    """(COUNT, HORIZON) bool: steps before which nothing has ended, of valid starts."""
    before = np.cumsum(ended, 1) - ended
    return (before == 0) & (np.arange(COUNT) < COUNT - 5)[:, None]


def test_transitions_are_valid_until_the_sampled_end() -> None:
    plain = generate()
    end = jax.jit(lambda features: MODEL.terminal(MODEL.state_from_features(features)).mean())
    chance = np.asarray(end(plain.transitions.next_features)).reshape(COUNT, HORIZON)
    ended = np.asarray(jax.random.uniform(jax.random.split(KEY, 3)[2], chance.shape)) >= 1 - chance
    valid = np.asarray(plain.valid).reshape(COUNT, HORIZON)
    np.testing.assert_array_equal(
        np.asarray(plain.transitions.terminal).reshape(ended.shape), ended
    )
    np.testing.assert_array_equal(valid, before_the_end(ended))
    assert (valid & ended).any() and not valid[-5:].any()
    np.testing.assert_allclose(plain.statistics["imagined/valid"], valid.mean(), rtol=1e-5)
    reward = np.asarray(plain.transitions.reward)[valid.reshape(-1)].mean()
    np.testing.assert_allclose(plain.statistics["imagined/reward"], reward, rtol=1e-4, atol=1e-6)


def max_pairwise(features: jax.Array, action: jax.Array) -> np.ndarray:
    """The largest distance between the means of two members."""
    means = np.asarray(members(features, action).location)
    return np.max([np.linalg.norm(a - b, axis=-1) for a in means for b in means], 0)


def test_rollouts_are_truncated_where_uncertainty_exceeds_the_quantile_of_the_dataset() -> None:
    """All later steps are invalid too, and a truncation is not an end."""
    plain, cut = generate(), generate(truncation_quantile=0.9, truncation_measure="max_pairwise")
    given = windows()
    limit = np.quantile(max_pairwise(given.observation["x"][:-5, 0], given.action[:-5, 0]), 0.9)
    beyond = (max_pairwise(plain.transitions.features, plain.transitions.action) > limit).reshape(
        COUNT, HORIZON
    )
    known, ended = (
        np.cumsum(beyond, 1) == 0,
        np.asarray(plain.transitions.terminal).reshape(COUNT, HORIZON),
    )
    valid = np.asarray(cut.valid).reshape(COUNT, HORIZON)
    np.testing.assert_array_equal(valid, before_the_end(ended) & known)
    assert 0 < valid.sum() < np.asarray(plain.valid).sum()
    assert (
        before_the_end(ended) & ~beyond & ~known
    ).any()  # less uncertain again after the truncation
    np.testing.assert_array_equal(cut.transitions.terminal, plain.transitions.terminal)
    np.testing.assert_allclose(cut.statistics["imagined/truncated"], 1 - known.mean(), rtol=1e-5)


@pytest.mark.parametrize("kind", [DeterministicActor, NormalActor])
def test_sampled_actions_are_within_their_range(kind: type) -> None:
    actor = kind(3, 2, 8, 1, rngs=nnx.Rngs(params=0))
    features = 10 * jax.random.normal(KEY, (200, 3))
    drawn = actor(features).sample(KEY)
    assert float(jnp.abs(drawn).max()) == 1.0
    assert float(jnp.abs(drawn).min()) < 0.5
