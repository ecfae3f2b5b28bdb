"""One dream as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.dream import spaces
from worldmodel.dream.dream import Dream, DreamState, Step


class DreamEnv(gymnasium.Env):
    """A dream, one call to the device a step. Observations and actions are in raw units.

    `reset(options={"episode": 3, "step": 17})` begins where that logged row was; with `episode`
    alone, at any start in it. A reset's info says `start_episode` and `start_step`.
    """

    metadata = {"render_modes": []}

    def __init__(self, dream: Dream, spec: DataSpec):
        self.dream = dream
        self.observation_space = spaces.observation_space(spec.observations)
        self.action_space = spaces.action_space(spec.action)
        self.state: DreamState | None = None
        self.key: jax.Array | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = spaces.validate_reset_options(options, ("episode", "step"))
        start = np.int32(
            self.np_random.choice(spaces.matching_starts(self.dream.initial_states, options))
        )
        seed = np.uint32(self.np_random.integers(2**31))
        self.state, observation, self.key = _begin(self.dream, start, seed)
        info = {
            name: int(x) for name, x in spaces.start_info(self.dream.initial_states, start).items()
        }
        return spaces.to_space(spaces.on_host(observation)), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.state is None:
            raise gymnasium.error.ResetNeeded("Call reset before step")
        action = spaces.validate_action(self.action_space, action)
        (self.state, *given), self.key = _advance(self.dream, self.state, action, self.key)
        observation, reward, terminated, truncated, info = spaces.on_host(given)
        return (
            spaces.to_space(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            {name: value.item() for name, value in info.items()},
        )


@jax.jit
def _begin(
    dream: Dream, start: jax.Array, seed: jax.Array
) -> tuple[DreamState, dict[str, jax.Array], jax.Array]:
    key, member_key = jax.random.split(jax.random.key(seed))
    return *dream.reset_at(start, member_key), key


@jax.jit
def _advance(
    dream: Dream, state: DreamState, action: jax.Array, key: jax.Array
) -> tuple[Step, jax.Array]:
    key, step_key = jax.random.split(key)
    return dream.step(state, action, step_key), key
