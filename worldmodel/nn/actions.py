"""Actions as vectors, and distributions over actions of several parts: numbers and classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.data.spec import ActionSpec
from worldmodel.errors import ArgumentError
from worldmodel.nn.distributions import Categorical, Normal

NEVER = -1e9  # the logit of a class that a choice does not have


def action_vector(action: jax.Array, spec: ActionSpec, dtype: jnp.dtype) -> jax.Array:
    """Actions as vectors (..., A): numbers, and classes one-hot. Raises ArgumentError."""
    integers = jnp.issubdtype(action.dtype, jnp.integer)
    if not (integers if spec.discrete else action.shape[-1:] == (spec.size,)):
        accepted = "integers (...)" if spec.discrete else f"numbers (..., {spec.size})"
        raise ArgumentError(f"action: {action.dtype} {action.shape}; accepted: {accepted}")
    if spec.discrete:
        return jax.nn.one_hot(action, spec.size, dtype=dtype)
    if spec.kind == "mixed":
        columns, labels = vector_entries(spec)
        values = action[..., columns]
        return jnp.where(labels < 0, values, values == labels).astype(dtype)
    return action.astype(dtype)


def vector_entries(spec: ActionSpec) -> tuple[np.ndarray, np.ndarray]:
    """(A,) the column of each number of an action as a vector, and the class that it stands for, -1
    for a number.
    """
    labels = [np.arange(n) if n else np.array([-1]) for n in spec.classes]
    columns = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    return columns, np.concatenate(labels)


def split_vector(vector: jax.Array, spec: ActionSpec) -> tuple[jax.Array, jax.Array]:
    """The numbers (..., D) and the classes (..., J, C) of vectors (..., A): J choices among at most
    C classes; those that a choice does not have are `NEVER`.
    """
    _, labels = vector_entries(spec)
    sizes = np.array([n for n in spec.classes if n])
    first = np.flatnonzero(labels == 0)[:, None]
    places = first + np.minimum(np.arange(sizes.max()), sizes[:, None] - 1)
    exists = np.arange(sizes.max()) < sizes[:, None]
    classes = jnp.where(exists, vector[..., places], NEVER)
    return vector[..., np.flatnonzero(labels < 0)], classes


def join_columns(numbers: jax.Array, classes: jax.Array, spec: ActionSpec) -> jax.Array:
    """Actions (..., K) of numbers (..., D) and of classes (..., J)."""
    is_class = np.asarray(spec.classes) > 0
    places = np.argsort(np.concatenate([np.flatnonzero(~is_class), np.flatnonzero(is_class)]))
    return jnp.concatenate([numbers, classes.astype(numbers.dtype)], -1)[..., places]


def split_columns(action: jax.Array, spec: ActionSpec) -> tuple[jax.Array, jax.Array]:
    """The numbers (..., D) and the classes (..., J), integers, of actions (..., K)."""
    is_class = np.asarray(spec.classes) > 0
    classes = action[..., np.flatnonzero(is_class)].astype(jnp.int32)
    return action[..., np.flatnonzero(~is_class)], classes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mixed:
    """Actions (..., K) of independent parts: D numbers and J classes, by columns.

    numbers: over the numbers (..., D)
    classes: over the classes (..., J)
    """

    numbers: Normal
    classes: Categorical
    spec: ActionSpec = field(metadata={"static": True})

    def mode(self) -> jax.Array:
        return join_columns(self.numbers.mode(), self.classes.mode(), self.spec)

    def sample(self, key: jax.Array) -> jax.Array:
        numbers_key, classes_key = jax.random.split(key)
        numbers, classes = self.numbers.sample(numbers_key), self.classes.sample(classes_key)
        return join_columns(numbers, classes, self.spec)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """(...) of actions (..., K): the sum over the parts, as of `entropy` and `kl`."""
        numbers, classes = split_columns(value, self.spec)
        return self.numbers.log_prob(numbers) + self.classes.log_prob(classes).sum(-1)

    def loss(self, target: jax.Array) -> jax.Array:
        return -self.log_prob(target)

    def entropy(self) -> jax.Array:
        return self.numbers.entropy() + self.classes.entropy().sum(-1)

    def kl(self, other: Mixed) -> jax.Array:
        """KL(self || other) (...), in nats."""
        return self.numbers.kl(other.numbers) + self.classes.kl(other.classes).sum(-1)
