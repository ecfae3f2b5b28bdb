"""The true dynamics of an environment, to separate errors of the model from those of a method.

Pendulum is implemented in JAX; MuJoCo environments are called on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.config import Config, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.models.observed import Observed, ObservedOptions, ObservedState
from worldmodel.models.simulator import get_simulator
from worldmodel.models.unobserved import predict_unobserved

# Observations (..., D) and raw actions (..., A) -> next observations, rewards (...), ends (...).
Outcome = tuple[jax.Array, jax.Array, jax.Array]
Dynamics = Callable[[jax.Array, jax.Array], Outcome]
NO_ENVIRONMENT = "model.environment: needs a Gymnasium id, such as model.environment=HalfCheetah-v5"


@dataclass
class OracleOptions(ObservedOptions):
    """The true dynamics of an environment: nothing to train."""

    name: str = option("oracle", "family of the world model")
    environment: str | None = option(
        None, "Gymnasium id: Pendulum-v1, or a MuJoCo one that observes positions and velocities"
    )

    def errors(self, config: Config) -> Iterator[str]:
        if not self.environment:
            yield NO_ENVIRONMENT
        elif config.data.environment_options:
            yield "data.environment_options: model=oracle accepts none, it has the defaults alone"


@register("model", "oracle", OracleOptions)
class Oracle(Observed):
    """The observation of the environment is the only vector of the dataset. Features are the
    standardized vector; the environment receives raw units.
    """

    has_dynamics = True

    def __init__(self, options: OracleOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
        super().__init__(options, spec, rngs=rngs, dtype=dtype)
        if not options.environment:
            raise ConfigError(NO_ENVIRONMENT)
        self.environment, self.action = options.environment, spec.action
        _check(self.environment, spec)

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: ObservedState | None = None,
        action: jax.Array | None = None,
    ) -> ObservedState:
        states = super().observe(window, key, state, action)
        predicted = predict_unobserved(self, states, window, key, state, action)
        return states._replace(point=predicted.point)

    def step(self, state: ObservedState, action: jax.Array, key: jax.Array) -> ObservedState:
        ((name, observation),) = self.observation(state).items()
        low, high = jnp.asarray(self.action.low), jnp.asarray(self.action.high)
        raw = low + (jnp.clip(action, -1.0, 1.0) + 1.0) / 2.0 * (high - low)
        dynamics = EQUATIONS.get(self.environment) or partial(simulate, self.environment)
        following, reward, ended = dynamics(observation.mean(), raw)
        return ObservedState(self.vectors.normalize({name: following}), reward, ended)


def pendulum(observation: jax.Array, action: jax.Array) -> Outcome:
    """A step of Gymnasium's Pendulum-v1 (gravity 10, mass and length 1, 0.05 s), which never ends.

    observation: (..., 3), cosine and sine of the angle (0: upright), and speed in rad/s
    action: (..., 1), torque
    """
    cosine, sine, speed = jnp.moveaxis(observation, -1, 0)
    angle, torque = jnp.arctan2(sine, cosine), jnp.clip(action[..., 0], -2.0, 2.0)
    cost = jnp.square(angle) + 0.1 * jnp.square(speed) + 0.001 * jnp.square(torque)
    speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
    angle = angle + 0.05 * speed
    following = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed], -1)
    return following, -cost, jnp.zeros_like(cost)


EQUATIONS: dict[str, Dynamics] = {"Pendulum-v1": pendulum}
SIZES = {"Pendulum-v1": (3, 1)}  # dimensions of observations and actions


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def simulate(environment: str, observation: jax.Array, action: jax.Array) -> Outcome:
    """A step of a MuJoCo environment, on the host."""

    def step(observation: jax.Array, action: jax.Array) -> tuple[np.ndarray, ...]:
        batch = observation.shape[:-1]
        observations, actions = (
            np.asarray(x).reshape(-1, x.shape[-1]) for x in (observation, action)
        )
        outcome = get_simulator(environment).step(observations, actions)
        return tuple(x.reshape((*batch, *x.shape[1:])) for x in outcome)

    number = jax.ShapeDtypeStruct(observation.shape[:-1], jnp.float32)
    vector = jax.ShapeDtypeStruct(observation.shape, jnp.float32)
    shapes = (vector, number, number)
    return jax.pure_callback(step, shapes, observation, action, vmap_method="broadcast_all")


@simulate.defjvp
def _no_gradient(environment: str, *_: tuple) -> tuple:
    raise ConfigError(
        f"model.environment={environment}: a simulator has no gradient; accepted: "
        f"policy.actor_grad=reinforce, or {', '.join(EQUATIONS)}, which is implemented in JAX"
    )


def _check(environment: str, spec: DataSpec) -> None:
    """Raises ConfigError if the environment has other observations or actions than the dataset."""
    sizes = SIZES.get(environment) or get_simulator(environment).sizes
    action = spec.action.size if spec.action.kind == "continuous" else "classes"
    actual = (*(o.shape[0] for o in spec.observations.values()), action)
    if actual != sizes:
        raise ConfigError(
            f"model.environment={environment} does not fit the dataset: it has one vector of "
            f"{sizes[0]} numbers and actions of {sizes[1]}, the dataset has vectors of "
            f"{' and '.join(map(str, actual[:-1]))} and actions of {actual[-1]}"
        )
