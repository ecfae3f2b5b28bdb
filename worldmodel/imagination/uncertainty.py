"""Uncertainty of an ensemble's predictions, and rollouts penalized or truncated by it.

The measures are those compared by Lu et al. (ICLR 2022, arXiv 2110.04135). Each maps the
predictions of M members, normals (M, ..., D), to one nonnegative number (...), which grows with the
uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import jax
import jax.numpy as jnp

from worldmodel.config.registry import names
from worldmodel.errors import ArgumentError, ConfigError, did_you_mean, require
from worldmodel.imagination.rollout import Rollout
from worldmodel.models.arguments import check_model, check_number, check_states
from worldmodel.models.interface import EnsembleModel, State, WorldModel
from worldmodel.nn.distributions import Normal

# ---------------------------------------------------------------------------------------- measures


def max_aleatoric(members: Normal) -> jax.Array:
    """max_i |sigma_i|: the largest predicted noise (MOPO, Yu et al., arXiv 2005.13239)."""
    return jnp.linalg.norm(members.scale, axis=-1).max(0)


def max_pairwise(members: Normal) -> jax.Array:
    """max_ij |mu_i - mu_j|: the largest distance of two members (MOReL, arXiv 2005.05951)."""

    def farthest(location: jax.Array) -> jax.Array:
        return jnp.linalg.norm(members.location - location, axis=-1).max(0)

    return jax.lax.map(farthest, members.location).max(0)


def max_deviation(members: Normal) -> jax.Array:
    """max_i |mu_i - mean mu|: the largest distance to the mean."""
    return jnp.linalg.norm(members.location - members.location.mean(0), axis=-1).max(0)


def ensemble_variance(members: Normal) -> jax.Array:
    """Variance of the mixture, averaged over D: disagreement and noise."""
    return _variance(members).mean(-1)


def ensemble_std(members: Normal) -> jax.Array:
    """Square root of `ensemble_variance`."""
    return jnp.sqrt(ensemble_variance(members))


def epistemic_std(members: Normal) -> jax.Array:
    """Square root of the variance of the means, averaged over D: disagreement alone."""
    return jnp.sqrt(members.location.var(0).mean(-1))


def log_likelihood_variance(members: Normal) -> jax.Array:
    """var_i ln N(s'; mu_i, sigma_i) at s' = mean mu, which makes it a function of state and action
    like the others.
    """
    return members.log_prob(members.location.mean(0)).var(0)


def leave_one_out_kl(members: Normal) -> jax.Array:
    """Mean over i of KL(N_i || others), in nats, with the normal of the others' mean and variance.
    M2AC (arXiv 2010.04893) samples one i; the mean has the same expectation.
    """
    count = len(members.location)
    if count < 2:
        raise ConfigError(
            "leave_one_out_kl compares members; accepted: model.num_members of 2 or more"
        )

    def divergence(i: jax.Array) -> jax.Array:
        others = (i + 1 + jnp.arange(count - 1)) % count
        one, rest = (jax.tree.map(lambda x, n=n: x[n], members) for n in (i, others))
        return one.kl(Normal(rest.location.mean(0), jnp.sqrt(_variance(rest))))

    return jax.lax.map(divergence, jnp.arange(count)).mean(0)


UNCERTAINTIES: dict[str, Callable[[Normal], jax.Array]] = {
    measure.__name__: measure
    for measure in (
        max_aleatoric, max_pairwise, max_deviation, ensemble_variance, ensemble_std, epistemic_std,
        log_likelihood_variance, leave_one_out_kl,
    )
}  # fmt: skip
# Those that are always 0 for an ensemble of one.
DISAGREEMENTS = (
    "max_pairwise", "max_deviation", "epistemic_std", "log_likelihood_variance", "leave_one_out_kl",
)  # fmt: skip


def _variance(members: Normal) -> jax.Array:
    """Of the mixture, (..., D)."""
    return jnp.square(members.scale).mean(0) + members.location.var(0)


# ------------------------------------------------------------------------- of states and rollouts


def step_uncertainty(
    model: WorldModel, measures: Collection[str], state: State, action: jax.Array
) -> dict[str, jax.Array]:
    """Measures, name -> (B,), of actions (B, ...) in states (B, ...).

    Raises ConfigError for a model without members, or a name that is not in `UNCERTAINTIES`.
    """
    _check_measures(measures)
    members = model.predict_members(state, action)
    if members is None:
        accepted = names("model", lambda family: issubclass(family, EnsembleModel))
        raise ConfigError(
            f"uncertainty: {type(model).__name__} has no members that could disagree; accepted: "
            f"model={accepted}"
        )
    return {name: UNCERTAINTIES[name](members) for name in measures}


def _check_measures(measures: Collection[str]) -> None:
    for name in measures:
        if not isinstance(name, str) or name not in UNCERTAINTIES:
            near = did_you_mean(str(name), UNCERTAINTIES)
            accepted = ", ".join(UNCERTAINTIES)
            raise ConfigError(f"unknown uncertainty {name!r}; accepted: {accepted}{near}")


def measure_uncertainty(
    model: WorldModel, measures: Collection[str], states: State, actions: jax.Array
) -> dict[str, jax.Array]:
    """Measures, name -> (B, H), of actions (B, H, ...) in states (B, H, ...), as
    `step_uncertainty`.

    Computed step by step: the hidden layers of M members for all H steps would not fit in memory.
    """
    steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (states, actions))
    values = jax.lax.map(lambda step: step_uncertainty(model, measures, *step), steps)
    return {name: jnp.swapaxes(x, 0, 1) for name, x in values.items()}


# -------------------------------------------------------------------------------------- transforms


def with_uncertainty(model: WorldModel, name: str) -> Callable[[Rollout], Rollout]:
    """A transform that sets `uncertainty`, by measure `name` of `model`'s members at each step.

    rollout = with_uncertainty(model, "max_aleatoric")(imagine(model, start, actor, 5, key))
    rollout = penalize(rollout, 0.5)

    Raises ConfigError for an unknown measure and for a model without members; the transform raises
    ArgumentError for what is no rollout of the model.
    """
    check_model(model)
    _check_measures([name])

    def transform(rollout: Rollout) -> Rollout:
        _check_rollout(rollout)
        check_states("rollout.states", jax.tree.map(lambda x: x[:, 0], rollout.states), model)
        before = jax.tree.map(lambda x: x[:, :-1], rollout.states)
        measures = measure_uncertainty(model, [name], before, rollout.actions)
        return replace(rollout, uncertainty=measures[name])

    return transform


def penalize(rollout: Rollout, coefficient: jax.Array | float) -> Rollout:
    """The rollout with rewards r - coefficient u (MOPO). Raises ArgumentError without uncertainty,
    and for a coefficient that is no number and no array that broadcasts to (B, H).
    """
    check_number("coefficient", coefficient, measured(rollout).shape)
    return replace(rollout, rewards=rollout.rewards - coefficient * measured(rollout))


def truncate(rollout: Rollout, limit: jax.Array | float) -> Rollout:
    """The rollout, valid before the first step whose uncertainty exceeds `limit` or is NaN.

    Truncation does not end an episode: `continues` stays, and the last valid step bootstraps.
    Raises ArgumentError without uncertainty, and for a limit that is no number and no array that
    broadcasts to (B, H).
    """
    check_number("limit", limit, measured(rollout).shape)
    valid = jnp.cumprod(measured(rollout) <= limit, 1, dtype=jnp.int32) == 1
    return replace(rollout, valid=valid & rollout.mask)


def measured(rollout: Rollout) -> jax.Array:
    """The uncertainty (B, H) of a rollout that `with_uncertainty` has transformed."""
    _check_rollout(rollout)
    if rollout.uncertainty is None:
        raise ArgumentError("the rollout has no uncertainty; apply with_uncertainty(...) first")
    return rollout.uncertainty


def _check_rollout(rollout: Rollout) -> None:
    """Raises ArgumentError unless this is a rollout with the batch axis first."""
    accepted = "a Rollout, batch-first, as `imagine` returns"
    require(isinstance(rollout, Rollout), "rollout", type(rollout).__name__, accepted)
    (batch, steps), features = rollout.rewards.shape, rollout.features.shape
    found = f"rewards {(batch, steps)} and features {features}"
    require(features[:2] == (batch, steps + 1), "rollout", found, accepted)
