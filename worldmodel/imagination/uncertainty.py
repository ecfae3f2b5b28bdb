"""How unsure an ensemble is of where an action leads, and rollouts that are penalised or cut by it.

Measures as compared by Lu et al. (ICLR 2022, arXiv 2110.04135). Each takes what M
members predict, normals (M, ..., D), to one number (...): 0 or more, larger where less is known.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import jax
import jax.numpy as jnp

from worldmodel.errors import ConfigError
from worldmodel.imagination.rollout import Rollout
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.distributions import Normal

# ---------------------------------------------------------------------------------------- measures


def max_aleatoric(members: Normal) -> jax.Array:
    """max_i |sigma_i|: the widest member (MOPO, Yu et al., arXiv 2005.13239)."""
    return jnp.linalg.norm(members.scale, axis=-1).max(0)


def max_pairwise(members: Normal) -> jax.Array:
    """max_ij |mu_i - mu_j|: the two members that disagree most (MOReL, arXiv 2005.05951)."""

    def farthest(location: jax.Array) -> jax.Array:
        return jnp.linalg.norm(members.location - location, axis=-1).max(0)

    return jax.lax.map(farthest, members.location).max(0)


def max_deviation(members: Normal) -> jax.Array:
    """max_i |mu_i - mean mu|: the member that disagrees most with all."""
    return jnp.linalg.norm(members.location - members.location.mean(0), axis=-1).max(0)


def ensemble_variance(members: Normal) -> jax.Array:
    """Variance of the members' mixture, its mean over D: what they disagree on and their noise."""
    return _variance(members).mean(-1)


def ensemble_std(members: Normal) -> jax.Array:
    """Root of `ensemble_variance`."""
    return jnp.sqrt(ensemble_variance(members))


def epistemic_std(members: Normal) -> jax.Array:
    """Root of the variance of the members' means, averaged over D: the disagreement alone."""
    return jnp.sqrt(members.location.var(0).mean(-1))


def log_likelihood_variance(members: Normal) -> jax.Array:
    """var_i ln N(s'; mu_i, sigma_i) at s' = mean mu: a point estimate, so that it is a function of
    state and action like the others.
    """
    return members.log_prob(members.location.mean(0)).var(0)


def leave_one_out_kl(members: Normal) -> jax.Array:
    """Mean over i of KL(N_i || the others), nats. The others are the normal with their mixture's
    mean and variance. M2AC (arXiv 2010.04893) draws one i; the mean has the same expectation.
    """
    count = len(members.location)
    if count < 2:
        raise ConfigError("leave_one_out_kl compares members; accepted: an ensemble of 2 or more")

    def divergence(i: jax.Array) -> jax.Array:
        others = (i + 1 + jnp.arange(count - 1)) % count
        one, rest = (
            jax.tree.map(lambda x: x[i], members),
            jax.tree.map(lambda x: x[others], members),
        )
        return _kl(one, _mixture(rest))

    return jax.lax.map(divergence, jnp.arange(count)).mean(0)


UNCERTAINTIES: dict[str, Callable[[Normal], jax.Array]] = {
    f.__name__: f
    for f in (
        max_aleatoric,
        max_pairwise,
        max_deviation,
        ensemble_variance,
        ensemble_std,
        epistemic_std,
        log_likelihood_variance,
        leave_one_out_kl,
    )
}

# What a single member knows nothing of: these would be 0, and worth nothing at any price.
DISAGREEMENTS = (
    "max_pairwise",
    "max_deviation",
    "epistemic_std",
    "log_likelihood_variance",
    "leave_one_out_kl",
)


def _variance(members: Normal) -> jax.Array:
    """Of the mixture, (..., D)."""
    return jnp.square(members.scale).mean(0) + members.location.var(0)


def _mixture(members: Normal) -> Normal:
    """The normal (..., D) with the mean and the variance of the mixture."""
    return Normal(members.location.mean(0), jnp.sqrt(_variance(members)))


def _kl(one: Normal, other: Normal) -> jax.Array:
    """KL(one || other) (...)."""
    ratio = jnp.square(one.scale / other.scale)
    off = jnp.square((one.location - other.location) / other.scale)
    return 0.5 * (ratio + off - 1 - jnp.log(ratio)).sum(-1)


# ------------------------------------------------------------------------------------- of rollouts


def measure_uncertainty(
    model: WorldModel, names: Collection[str], states: State, actions: jax.Array
) -> dict[str, jax.Array]:
    """Measures, name -> (B, H), of actions (B, H, ...) at states (B, H, ...).

    One step of time after the other: M members' hidden layers of all H would not fit.

    Raises ConfigError for a model without members, or a name that is none of `UNCERTAINTIES`.
    """
    unknown = [name for name in names if name not in UNCERTAINTIES]
    if unknown:
        raise ConfigError(f"uncertainty {unknown[0]!r}; accepted: {', '.join(UNCERTAINTIES)}")

    def step(inputs: tuple[State, jax.Array]) -> dict[str, jax.Array]:
        members = model.predict_members(*inputs)
        if members is None:
            raise ConfigError(
                f"uncertainty: {type(model).__name__} has no members that could disagree; "
                "accepted: an ensemble, such as model=ensemble"
            )
        return {name: UNCERTAINTIES[name](members) for name in names}

    steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (states, actions))
    return {name: jnp.swapaxes(x, 0, 1) for name, x in jax.lax.map(step, steps).items()}


# -------------------------------------------------------------------------------------- transforms


def with_uncertainty(model: WorldModel, name: str) -> Callable[[Rollout], Rollout]:
    """Fills in `uncertainty`, by measure `name` of what `model`'s members say of each step."""

    def transform(rollout: Rollout) -> Rollout:
        before = jax.tree.map(lambda x: x[:, :-1], rollout.states)
        found = measure_uncertainty(model, [name], before, rollout.actions)
        return replace(rollout, uncertainty=found[name])

    return transform


def penalize(rollout: Rollout, coefficient: jax.Array | float) -> Rollout:
    """reward - coefficient x uncertainty (MOPO)."""
    return replace(rollout, rewards=rollout.rewards - coefficient * rollout.uncertainty)


def truncate(rollout: Rollout, limit: jax.Array | float) -> Rollout:
    """Leaves out the first step whose uncertainty exceeds `limit`, and all after it.

    Where a rollout is cut no episode ends: `continues` stays, and the last step bootstraps. What is
    not a number exceeds every limit.
    """
    known = jnp.cumprod(rollout.uncertainty <= limit, 1, dtype=jnp.int32) == 1
    return replace(rollout, valid=known if rollout.valid is None else known & rollout.valid)
