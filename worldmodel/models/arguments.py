"""Checks of what users pass to predictions and rollouts: errors name what is accepted, where JAX
would speak of the operation that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import ActionSpec, ObservationSpec
from worldmodel.errors import ArgumentError, did_you_mean, require
from worldmodel.models.interface import State, WorldModel

ARRAYS = (jax.Array, np.ndarray)


def describe(x: Any) -> str:
    """Such as 'float32 (2, 3)' for an array, else the type."""
    return f"{x.dtype} {x.shape}" if isinstance(x, ARRAYS) else type(x).__name__


def check_key(key: Any) -> None:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    legacy = describe(key) == "uint32 (2,)"
    single = typed and key.shape == ()
    require(single or legacy, "key", describe(key), "one key, such as jax.random.key(0)")


def check_model(model: Any) -> None:
    require(isinstance(model, WorldModel), "model", describe(model), "a WorldModel, as `run.model`")


def check_states(name: str, states: State, model: WorldModel) -> int:
    """Returns the size of the batch. Raises ArgumentError for other states than those of the model
    with one batch axis.
    """
    like = jax.eval_shape(lambda: model.initial((1,)))
    described = ", ".join(
        f"{x.dtype} ({', '.join(map(str, ('B', *x.shape[1:])))})" for x in jax.tree.leaves(like)
    )
    accepted = f"states (B, ...) as model.observe returns at a step: {described}"
    same = jax.tree.structure(states) == jax.tree.structure(like)
    require(same, name, f"{type(states).__name__} of another structure", accepted)
    leaves = jax.tree.leaves(states)
    actual = ", ".join(map(describe, leaves))
    arrays = all(isinstance(x, ARRAYS) for x in leaves)
    require(arrays, name, actual, accepted)
    batch = leaves[0].shape[:1]
    for x, expected in zip(leaves, jax.tree.leaves(like), strict=True):
        fits = x.shape == (*batch, *expected.shape[1:]) and x.dtype.kind == expected.dtype.kind
        require(fits, name, actual, accepted)
    return batch[0]


def check_actions(actions: Any, spec: ActionSpec, steps: int, batch: int | None = None) -> None:
    """Raises ArgumentError unless these are actions (B, T, A), or classes (B, T), of `steps`."""
    kind, axes = ("integers", "(B, T)") if spec.discrete else ("numbers", f"(B, T, {spec.size})")
    of = "B" if batch is None else f"B={batch}"
    accepted = f"{kind} {axes}, {of} and T={steps} or more"
    require(isinstance(actions, ARRAYS), "actions", describe(actions), accepted)
    rest = () if spec.discrete else (spec.size,)
    fits = actions.ndim == 2 + len(rest) and actions.shape[2:] == rest
    fits = fits and actions.dtype.kind in ("iu" if spec.discrete else "iuf")
    fits = fits and actions.shape[1] >= steps and batch in (None, actions.shape[0])
    require(fits, "actions", describe(actions), accepted)
    if spec.discrete and isinstance(actions, np.ndarray) and actions.size:
        low, high = actions.min(), actions.max()
        inside = low >= 0 and high < spec.size
        require(bool(inside), "actions", f"{low} to {high}", f"classes 0 to {spec.size - 1}")


def check_finite(name: str, x: Any) -> None:
    """Raises ArgumentError for an array without elements, or with one that is not finite."""
    require(x.size > 0, name, describe(x), "one element or more")
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.asarray(x, np.float32))
    if not finite.all():
        place = tuple(map(int, np.argwhere(~finite)[0]))
        raise ArgumentError(f"{name}: {x[place]} at {place}; accepted: finite float32 numbers")


def check_observations(
    observations: Any, specs: Mapping[str, ObservationSpec], steps: int, batch: int
) -> None:
    """Raises ArgumentError unless each name has observations (B, T, ...) of at least `steps`."""
    names = ", ".join(specs)
    require(isinstance(observations, Mapping), "observations", describe(observations), names)
    for name, spec in specs.items():
        near = did_you_mean(name, [other for other in observations if other not in specs])
        require(name in observations, "observations", f"{name!r} is missing{near}", names)
        x = observations[name]
        shape = ", ".join(map(str, ("B", "T", *spec.shape)))
        kinds = "u" if spec.is_image else "iuf"
        accepted = f"{spec.dtype} ({shape}), B={batch} and T={steps} or more"
        fits = isinstance(x, ARRAYS) and x.dtype.kind in kinds
        fits = fits and x.shape[:1] == (batch,) and x.shape[2:] == spec.shape
        require(fits and x.shape[1] >= steps, f"observation {name!r}", describe(x), accepted)
