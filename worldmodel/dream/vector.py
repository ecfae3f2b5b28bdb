"""Many dreams at once as a Gymnasium vector environment: one call to the device steps them all."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldmodel.data.spec import DataSpec
from worldmodel.dream import spaces
from worldmodel.dream.dream import Dream, DreamState
from worldmodel.dream.initial_states import Observation, decode_observation
from worldmodel.errors import UserError


class Carry(NamedTuple):
    """What stays on the device between two steps: the dreams, which of them are over (B,), and the
    key of all that is drawn.
    """

    state: DreamState
    done: jax.Array
    key: jax.Array


class VectorStep(NamedTuple):
    """What a step of B dreams gives. Where a dream was `reset`, `observation` is that of its new
    start, and `final`, if the mode has it, what was observed before.
    """

    observation: Observation
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    info: dict[str, jax.Array]
    reset: jax.Array
    start: jax.Array
    final: Observation | None


class DreamVectorEnv(VectorEnv):
    """`num_envs` dreams in raw units, with Gymnasium's modes of automatic resets: NEXT_STEP,
    SAME_STEP (with `final_obs` and `final_info`) and DISABLED.

    `reset(options=...)` takes `episode` and `row`, as numbers for all, to begin where that logged
    row was, and `reset_mask` (num_envs,) bool, to reset these alone. Where dreams begin, infos say
    `start_episode` and `start_step`.
    """

    def __init__(
        self,
        dream: Dream,
        spec: DataSpec,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ):
        self.dream, self.num_envs = dream, num_envs
        self.autoreset_mode = _checked_mode(num_envs, autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = spaces.observation_space(spec.observations)
        self.single_action_space = spaces.action_space(spec.action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.carry: Carry | None = None
        self.done = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = spaces.validate_reset_options(options, ("episode", "step", "reset_mask"))
        among = spaces.matching_starts(self.dream.initial_states, options)
        starts = self.np_random.choice(among, self.num_envs).astype(np.int32)
        seed = np.uint32(self.np_random.integers(2**31))
        if "reset_mask" in options:
            mask = self._checked(options["reset_mask"])
            self.carry, observation = _begin_some(self.dream, self.carry, starts, seed, mask)
        else:
            mask = np.ones(self.num_envs, bool)
            self.carry, observation = _begin(self.dream, starts, seed)
        self.done = self.done & ~mask
        return spaces.to_space(spaces.on_host(observation)), self._begun(mask, starts)

    def step(
        self, actions: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if self.carry is None:
            raise gymnasium.error.ResetNeeded("Call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self.done.any():
            raise gymnasium.error.ResetNeeded(
                f"Dreams {np.flatnonzero(self.done).tolist()} are over; reset them, with "
                "options={'reset_mask': ...}"
            )
        actions = spaces.validate_action(self.action_space, actions)
        self.carry, outcome = _advance(self.dream, self.carry, actions, self.autoreset_mode)
        outcome = spaces.on_host(outcome)
        self.done = outcome.terminated | outcome.truncated
        return (
            spaces.to_space(outcome.observation),
            outcome.reward,
            outcome.terminated,
            outcome.truncated,
            self._infos(outcome),
        )

    def _checked(self, mask: Any) -> np.ndarray:
        if self.carry is None:
            raise gymnasium.error.ResetNeeded("Reset all dreams before some of them")
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UserError(
                f"options: reset_mask has shape {mask.shape} and type {mask.dtype}; accepted: "
                f"({self.num_envs},) bool, with one that is True"
            )
        return mask

    def _infos(self, outcome: VectorStep) -> dict[str, Any]:
        """As Gymnasium lays them out: beside every key, under `_key`, whose it is."""
        reset = outcome.reset
        infos = _of_some(outcome.info, ~reset)
        if not reset.any():
            return infos
        infos |= self._begun(reset, outcome.start)
        if outcome.final is not None:
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(reset):
                seen = {name: value[i].copy() for name, value in outcome.final.items()}
                final[i] = spaces.to_space(seen)
            infos |= {"final_obs": final, "_final_obs": reset.copy()}
            infos |= {"final_info": _of_some(outcome.info, reset), "_final_info": reset.copy()}
        return infos

    def _begun(self, mask: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        return _of_some(spaces.start_info(self.dream.initial_states, starts), mask)


def _checked_mode(num_envs: int, mode: AutoresetMode | str) -> AutoresetMode:
    if num_envs < 1:
        raise UserError(
            f"dream: num_envs={num_envs}; accepted: 1 or more, or none for a single one"
        )
    try:
        return AutoresetMode(mode)
    except ValueError:
        accepted = ", ".join(mode.value for mode in AutoresetMode)
        raise UserError(f"dream: autoreset_mode={mode!r}; accepted: {accepted}") from None


def _of_some(info: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
    """Of those in `mask` alone, zero for the others."""
    values = {name: np.where(mask, x, np.zeros_like(x)) for name, x in info.items()}
    return values | {f"_{name}": mask.copy() for name in info}


@jax.jit
def _begin(dream: Dream, starts: jax.Array, seed: jax.Array) -> tuple[Carry, Observation]:
    key, member_key = jax.random.split(jax.random.key(seed))
    state, observation = dream.reset_at(starts, member_key)
    return Carry(state, jnp.zeros(len(starts), bool), key), observation


@jax.jit
def _begin_some(
    dream: Dream, carry: Carry, starts: jax.Array, seed: jax.Array, mask: jax.Array
) -> tuple[Carry, Observation]:
    begun, observation = _begin(dream, starts, seed)
    going_on = carry.state, decode_observation(dream.model, carry.state.model)
    state, observation = _chosen(mask, (begun.state, observation), going_on)
    return Carry(state, carry.done & ~mask, begun.key), observation


@partial(jax.jit, static_argnames="mode", donate_argnames="carry")
def _advance(
    dream: Dream, carry: Carry, actions: jax.Array, mode: AutoresetMode
) -> tuple[Carry, VectorStep]:
    key, step_key, reset_key = jax.random.split(carry.key, 3)
    state, observation, reward, terminated, truncated, info = dream.step(
        carry.state, actions, step_key
    )
    final, reset = None, jnp.zeros_like(carry.done)
    if mode is AutoresetMode.NEXT_STEP:  # dreams that were over are not stepped but reset
        reset = carry.done
        reward = jnp.where(reset, 0.0, reward)
        terminated, truncated = terminated & ~reset, truncated & ~reset
    elif mode is AutoresetMode.SAME_STEP:
        final, reset = observation, terminated | truncated
    over = (terminated | truncated) & ~reset

    def begun(going_on: tuple[DreamState, Observation]) -> tuple[DreamState, Observation]:
        return _chosen(reset, dream.reset(reset_key, len(reset)), going_on)

    state, observation = jax.lax.cond(reset.any(), begun, lambda x: x, (state, observation))
    outcome = VectorStep(
        observation, reward, terminated, truncated, info, reset, state.start, final
    )
    return Carry(state, over, key), outcome


def _chosen(mask: jax.Array, those: Any, others: Any) -> Any:
    """Rows of `those` where `mask` (B,), else of `others`; pytrees of (B, ...)."""

    def rows(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(rows, those, others)
