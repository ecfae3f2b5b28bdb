"""One dream as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.dream import spaces
from worldmodel.dream.dream import Dream, DreamState, DreamStep


class DreamEnv(gymnasium.Env):
    """A dream as a `gymnasium.Env`: one call to the device a step, observations and actions in raw
    units. Observations are arrays, or dicts of arrays where several are named.

    dream: the pure functions
    spec: the data of the model, which gives the spaces

    `reset(options={"episode": 3, "step": 17})` begins at that step of the dataset; with `episode`
    alone, at any initial state of it. The info of a reset holds `start_episode` and `start_step`;
    that of a step, the measures of uncertainty of the dream.

    Example:
        >>> import worldmodel
        >>> env = worldmodel.load("runs/smoke-0").dream()
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> observation.shape
        (3,)
    """

    metadata = {"render_modes": []}

    def __init__(self, dream: Dream, spec: DataSpec):
        self.dream, self.observations = dream, spec.observations
        self.observation_space = spaces.observation_space(spec.observations)
        self.action_space = spaces.action_space(spec.action)
        self.state: DreamState | None = None
        self.key = jax.random.key(0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins a new episode. Raises UserError for options that name no initial state."""
        spaces.check_seed(seed)
        super().reset(seed=seed)
        options = spaces.validate_reset_options(options, ("episode", "step"))
        candidates = spaces.matching_starts(self.dream.initial_states, options)
        start = np.asarray(self.np_random.choice(candidates), np.int32)
        noise_seed = np.uint32(self.np_random.integers(2**31))
        self.state, observation, self.key = _reset(self.dream, start, noise_seed)
        places = spaces.start_info(self.dream.initial_states, start)
        info = {name: int(value) for name, value in places.items()}
        return spaces.to_space(spaces.to_host(observation), self.observations), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one step, as Gymnasium defines it. Raises ResetNeeded before the first reset and
        InvalidAction for an action that is not in the action space.
        """
        if self.state is None:
            raise gymnasium.error.ResetNeeded("Call reset before step")
        action = spaces.validate_action(self.action_space, action)
        (self.state, *results), self.key = _step(self.dream, self.state, action, self.key)
        observation, reward, terminated, truncated, info = spaces.to_host(results)
        return (
            spaces.to_space(observation, self.observations),
            float(reward),
            bool(terminated),
            bool(truncated),
            {name: value.item() for name, value in info.items()},
        )


@jax.jit
def _reset(
    dream: Dream, start: jax.Array, seed: jax.Array
) -> tuple[DreamState, dict[str, jax.Array], jax.Array]:
    key, member_key = jax.random.split(jax.random.key(seed))
    return *dream.reset_at(start, member_key), key


@jax.jit
def _step(
    dream: Dream, state: DreamState, action: jax.Array, key: jax.Array
) -> tuple[DreamStep, jax.Array]:
    key, step_key = jax.random.split(key)
    return dream.step(state, action, step_key), key
