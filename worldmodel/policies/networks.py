"""Networks of the offline algorithms: plain ReLU layers, as published; and the networks of any
algorithm by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.data.spec import ActionSpec
from worldmodel.nn.actions import Mixed, split_vector
from worldmodel.nn.distributions import Categorical, Normal, TanhNormal
from worldmodel.nn.ensemble_layers import EnsembleLayerNorm, EnsembleLinear, select_members
from worldmodel.nn.layers import Linear
from worldmodel.nn.learner import Params, TrainState

EXPLORATION = 0.1  # standard deviation of a deterministic actor's samples
LOG_SCALE_LIMITS = (-5.0, 2.0)

# All modules by name: those of the algorithm, `model`, and target networks as `target_NAME`.
Nets = Mapping[str, Any]


def merge_nets(
    graphdefs: Mapping[str, nnx.GraphDef], state: TrainState, params: Params | None = None
) -> dict[str, Any]:
    """All modules and target networks of a state; `params` replace those of the state."""
    values = state.frozen | state.params | (params or {})
    nets = {name: nnx.merge(graphdef, values[name]) for name, graphdef in graphdefs.items()}
    targets = state.target_params.items()
    return nets | {f"target_{name}": nnx.merge(graphdefs[name], v) for name, v in targets}


class ReLUNetwork(nnx.Module):
    """(..., inputs) -> (..., outputs) through `layers` hidden layers."""

    def __init__(
        self, inputs: int, outputs: int, units: int, layers: int, *,
        rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32, scale: float = 1.0,
    ):  # fmt: skip
        """scale: of the initial weights of the last layer."""
        sizes = [inputs] + [units] * layers
        self.hidden = nnx.List([Linear(*io, rngs=rngs, dtype=dtype) for io in pairwise(sizes)])
        self.output = Linear(sizes[-1], outputs, rngs=rngs, dtype=dtype, scale=scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.output(x).astype(jnp.float32)


class Critics(nnx.Module):
    """N critics Q(s, a): features (..., F) and actions (..., A) -> (N, ...)."""

    def __init__(
        self, count: int, features: int, actions: int, units: int, layers: int, *,
        rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32, layer_norm: bool = False,
    ):  # fmt: skip
        sizes = [features + actions] + [units] * layers
        self.hidden = nnx.List(
            [EnsembleLinear(count, *io, rngs=rngs, dtype=dtype) for io in pairwise(sizes)]
        )
        self.norms = nnx.List([EnsembleLayerNorm(count, units) for _ in range(layers * layer_norm)])
        self.output = EnsembleLinear(count, sizes[-1], 1, rngs=rngs, dtype=dtype)
        self.count = count

    def __call__(self, features: jax.Array, actions: jax.Array) -> jax.Array:
        inputs = jnp.concatenate([features, actions], -1)
        values = self._values(inputs.reshape(-1, inputs.shape[-1]))
        return values.reshape(-1, *inputs.shape[:-1])

    def first(self, features: jax.Array, actions: jax.Array) -> jax.Array:
        """(...,) the first critic's values, without computing the others."""
        return select_members(self, slice(1))(features, actions)[0]

    def action_gradients(self, features: jax.Array, actions: jax.Array) -> jax.Array:
        """(N, B, A) the gradients of all critics with respect to actions (B, A), in one pass."""

        def total(actions: jax.Array) -> jax.Array:
            repeated = jnp.broadcast_to(features, (self.count, *features.shape))
            return self._values(jnp.concatenate([repeated, actions], -1)).sum()

        return jax.grad(total)(jnp.broadcast_to(actions, (self.count, *actions.shape)))

    def _values(self, x: jax.Array) -> jax.Array:
        """(B, F + A), or (N, B, F + A) with inputs of its own for each critic -> (N, B)."""
        for number, layer in enumerate(self.hidden):
            x = layer(x)
            x = jax.nn.relu(self.norms[number](x) if self.norms else x)
        return self.output(x).astype(jnp.float32)[..., 0]


@partial(jax.tree_util.register_dataclass, data_fields=["location", "scale"], meta_fields=[])
@dataclass(frozen=True)
class ClippedNormal(Normal):
    """A normal with samples clipped to [-1, 1], the range of actions, as environments do."""

    def sample(self, key: jax.Array) -> jax.Array:
        return jnp.clip(super().sample(key), -1.0, 1.0)


class DeterministicActor(ReLUNetwork):
    """(..., F) -> ClippedNormal (..., A): its mode acts, samples explore around it."""

    def __call__(self, features: jax.Array) -> ClippedNormal:
        location = jnp.tanh(super().__call__(features))
        return ClippedNormal(location, jnp.full_like(location, EXPLORATION))


class ClassActor(nnx.Module):
    """(..., F) -> Categorical (...), or Mixed (..., K) with a `ClippedNormal` of the numbers."""

    def __init__(
        self, inputs: int, action: ActionSpec, units: int, layers: int, *,
        rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32,
    ):  # fmt: skip
        self.network = ReLUNetwork(
            inputs, action.vector_size, units, layers, rngs=rngs, dtype=dtype
        )
        self.action = action

    def __call__(self, features: jax.Array) -> Categorical | Mixed:
        vector = self.network(features)
        if self.action.discrete:
            return Categorical.from_logits(vector)
        numbers, logits = split_vector(vector, self.action)
        normal = ClippedNormal(jnp.tanh(numbers), jnp.full_like(numbers, EXPLORATION))
        return Mixed(normal, Categorical.from_logits(logits), self.action)


class NormalActor(nnx.Module):
    """(..., F) -> ClippedNormal (..., A) with a state-independent scale per dimension (IQL)."""

    def __init__(
        self, inputs: int, actions: int, units: int, layers: int, *,
        rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32,
    ):  # fmt: skip
        self.location = ReLUNetwork(
            inputs, actions, units, layers, rngs=rngs, dtype=dtype, scale=0.01
        )
        self.log_scale = nnx.Param(jnp.zeros(actions, jnp.float32))

    def __call__(self, features: jax.Array) -> ClippedNormal:
        location = jnp.tanh(self.location(features))
        scale = jnp.exp(jnp.clip(self.log_scale[...], *LOG_SCALE_LIMITS))
        return ClippedNormal(location, jnp.broadcast_to(scale, location.shape))


class SquashedActor(nnx.Module):
    """(..., F) -> TanhNormal (..., A) (SAC)."""

    def __init__(
        self, inputs: int, actions: int, units: int, layers: int, *,
        rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32,
    ):  # fmt: skip
        self.network = ReLUNetwork(
            inputs, 2 * actions, units, layers, rngs=rngs, dtype=dtype, scale=0.01
        )

    def __call__(self, features: jax.Array) -> TanhNormal:
        location, log_scale = jnp.split(self.network(features), 2, -1)
        return TanhNormal(location, jnp.exp(jnp.clip(log_scale, *LOG_SCALE_LIMITS)))


class Temperature(nnx.Module):
    """The learned positive weight alpha of the entropy (Haarnoja et al., arXiv 1812.05905)."""

    def __init__(self) -> None:
        self.log = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self) -> jax.Array:
        return jnp.exp(self.log[...])
