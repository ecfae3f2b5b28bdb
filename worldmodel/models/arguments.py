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
from worldmodel.errors import ArgumentError, did_you_mean, first_line, require
from worldmodel.models.interface import State, WorldModel
from worldmodel.nn.layers import describe

ARRAYS = (jax.Array, np.ndarray)


def check_number(name: str, value: Any, shape: tuple[int, ...] = ()) -> None:
    """Raises ArgumentError unless this is a number, or numbers that broadcast to `shape`."""
    accepted = f"a number, or an array that broadcasts to {shape}" if shape else "a number"
    is_array = isinstance(value, (*ARRAYS, np.number)) and jnp.issubdtype(value.dtype, jnp.number)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    require(bool(is_array or (is_number and value == value)), name, describe(value), accepted)
    fits = len(np.shape(value)) <= len(shape) and all(
        n in (1, m) for n, m in zip(np.shape(value)[::-1], shape[::-1], strict=False)
    )
    require(fits, name, describe(value), accepted)


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
    require(batch[0] > 0, name, "no states", "B of 1 or more")
    return batch[0]


def check_actor(name: str, actor: Any, model: WorldModel, start: State) -> None:
    """Raises ArgumentError unless `actor` maps the features of states (B, ...) to a distribution
    over the model's actions. It is traced, not computed.
    """
    features = jax.eval_shape(model.features, start)
    shape, spec = features.shape[:1], getattr(model, "action", None)
    actions = ""
    if isinstance(spec, ActionSpec):
        shape = (*shape, *spec.shape)
        actions = f" {shape}"
    accepted = f"a function from features {features.shape} to a distribution over actions{actions}"
    function = callable(actor) and not isinstance(actor, type)
    require(function, name, describe(actor), accepted)

    def sample(features: jax.Array) -> jax.Array:
        distribution: Any = actor(features)
        able = hasattr(distribution, "sample")
        require(able, name, f"it returns {describe(distribution)}", accepted)
        return distribution.sample(jax.random.key(0))

    try:
        action = jax.eval_shape(sample, features)
    except ArgumentError:
        raise
    except (TypeError, ValueError) as error:  # of JAX, or of a call with other arguments
        raise ArgumentError(f"{name}: {first_line(error)}; accepted: {accepted}") from error
    fits = not isinstance(spec, ActionSpec) or action.shape == shape
    require(fits, name, f"its actions are {action.dtype} {action.shape}", accepted)


def check_actions(actions: Any, spec: ActionSpec, steps: int, batch: int | None = None) -> None:
    """Raises ArgumentError unless these are actions (B, T, K), or classes (B, T), of `steps`."""
    kind, axes = ("integers", "(B, T)") if spec.discrete else ("numbers", f"(B, T, {spec.size})")
    of = "B" if batch is None else f"B={batch}"
    accepted = f"{kind} {axes}, {of} and T={steps} or more"
    require(isinstance(actions, ARRAYS), "actions", describe(actions), accepted)
    fits = actions.ndim == 2 + len(spec.shape) and actions.shape[2:] == spec.shape
    fits = fits and actions.dtype.kind in ("iu" if spec.discrete else "iuf")
    fits = fits and actions.shape[1] >= steps and batch in (None, actions.shape[0])
    require(fits, "actions", describe(actions), accepted)
    if spec.discrete and isinstance(actions, np.ndarray) and actions.size:
        low, high = actions.min(), actions.max()
        inside = low >= 0 and high < spec.size
        require(bool(inside), "actions", f"{low} to {high}", f"classes 0 to {spec.size - 1}")
    if spec.kind == "mixed" and isinstance(actions, np.ndarray):
        wrong = spec.no_classes(actions)
        if wrong.any():
            *place, column = map(int, np.argwhere(wrong)[0])
            found = (
                f"{actions[(*place, column)]} at {tuple(place)} in {spec.column_names()[column]!r}"
            )
            raise ArgumentError(f"actions: {found}; accepted: 0 to {spec.classes[column] - 1}")


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
        units = "raw units, such as `dataset.raw_observations()`"
        require(not spec.lacks_offset(x), f"observation {name!r}", "values less offset", units)
