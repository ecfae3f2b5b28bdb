"""Many dreams as a Gymnasium vector environment: one call to the device steps them all."""

from __future__ import annotations

from collections.abc import Mapping
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
from worldmodel.errors import UserError, check_count


class Carry(NamedTuple):
    """What stays on the device between two steps: the dreams, which of them are done (B,), and the
    random key.
    """

    state: DreamState
    done: jax.Array
    key: jax.Array


class VectorStep(NamedTuple):
    """A step of B dreams. Where a dream was `reset`, `observation` is that of its new initial state
    `start`, and `final`, under SAME_STEP, the last observation of the episode before.
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
    """`num_envs` dreams as a `gymnasium.vector.VectorEnv`, observations and actions in raw units.

    dream: the pure functions
    spec: the data of the model, which gives the spaces
    num_envs: 1 or more
    autoreset_mode: NEXT_STEP, SAME_STEP (with `final_obs` and `final_info`) or DISABLED

    `reset(options=...)` takes `episode` and `step`, integers for all dreams, to begin at that step
    of the dataset, and `reset_mask` (num_envs,) bool, to reset only these. Where dreams begin,
    infos hold `start_episode` and `start_step`. Raises UserError for an unknown mode or `num_envs`.

    Example:
        >>> import worldmodel
        >>> envs = worldmodel.load("runs/smoke-0").dream(num_envs=4)
        >>> observations, infos = envs.reset(seed=0)
        >>> _, rewards, terminated, truncated, _ = envs.step(envs.action_space.sample())
        >>> rewards.shape
        (4,)
    """

    def __init__(
        self,
        dream: Dream,
        spec: DataSpec,
        num_envs: int,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ):
        check_count("dream: num_envs", num_envs)
        self.dream, self.num_envs, self.observations = dream, int(num_envs), spec.observations
        self.autoreset_mode = _validate_mode(autoreset_mode)
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
        """Begins new episodes in all dreams, or in those of `reset_mask`. Raises UserError for
        options that name no initial state.
        """
        spaces.check_seed(seed)
        super().reset(seed=seed)
        options = spaces.validate_reset_options(options, ("episode", "step", "reset_mask"))
        candidates = spaces.matching_starts(self.dream.initial_states, options)
        starts = self.np_random.choice(candidates, self.num_envs).astype(np.int32)
        noise_seed = np.uint32(self.np_random.integers(2**31))
        if "reset_mask" in options:
            mask = self._validate_mask(options["reset_mask"])
            self.carry, observation = _reset_some(self.dream, self.carry, starts, noise_seed, mask)
        else:
            mask = np.ones(self.num_envs, bool)
            self.carry, observation = _reset(self.dream, starts, noise_seed)
        self.done = self.done & ~mask
        return self._to_space(observation), self._start_infos(mask, starts)

    def step(
        self, actions: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step in every dream, as Gymnasium defines it. Raises ResetNeeded where a dream
        has to be reset and InvalidAction for actions that are not in the action space.
        """
        if self.carry is None:
            raise gymnasium.error.ResetNeeded("Call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self.done.any():
            raise gymnasium.error.ResetNeeded(
                f"Dreams {np.flatnonzero(self.done).tolist()} have ended; reset them with "
                "options={'reset_mask': ...}"
            )
        actions = spaces.validate_action(self.action_space, actions)
        self.carry, outcome = _step(self.dream, self.carry, actions, self.autoreset_mode)
        outcome = spaces.to_host(outcome)
        self.done = outcome.terminated | outcome.truncated
        return (
            self._to_space(outcome.observation),
            outcome.reward,
            outcome.terminated,
            outcome.truncated,
            self._infos(outcome.info, outcome.reset, outcome.start, outcome.final),
        )

    def _validate_mask(self, mask: Any) -> np.ndarray:
        if self.carry is None:
            raise gymnasium.error.ResetNeeded("Reset all dreams before some of them")
        try:
            mask = np.asarray(mask)
        except ValueError:  # lists of different lengths
            mask = np.asarray(None)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise UserError(
                f"options: reset_mask has shape {mask.shape} and type {mask.dtype}; accepted: "
                f"({self.num_envs},) bool, at least one of them True"
            )
        return mask

    def _infos(
        self,
        info: Mapping[str, np.ndarray],
        reset: np.ndarray,
        start: np.ndarray,
        final: Mapping[str, np.ndarray] | None,
    ) -> dict[str, Any]:
        """Gymnasium's layout: `_key` masks the dreams that `key` belongs to."""
        infos: dict[str, Any] = _masked(info, ~reset)
        if not reset.any():
            return infos
        infos |= self._start_infos(reset, start)
        if final is not None:
            final_obs = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(reset):
                own = {name: value[i].copy() for name, value in final.items()}
                final_obs[i] = self._to_space(own)
            infos |= {"final_obs": final_obs, "_final_obs": reset.copy()}
            infos |= {"final_info": _masked(info, reset), "_final_info": reset.copy()}
        return infos

    def _to_space(self, observation: Observation | Mapping[str, np.ndarray]) -> Any:
        return spaces.to_space(spaces.to_host(observation), self.observations)

    def _start_infos(self, mask: np.ndarray, starts: np.ndarray) -> dict[str, Any]:
        return _masked(spaces.start_info(self.dream.initial_states, starts), mask)


def _validate_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        accepted = ", ".join(mode.value for mode in AutoresetMode)
        raise UserError(f"dream: autoreset_mode={mode!r}; accepted: {accepted}") from None


def _masked(info: Mapping[str, np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """Values where `mask` (B,), else zero, and the mask under `_name`."""
    values = {name: np.where(mask, x, np.zeros_like(x)) for name, x in info.items()}
    return values | {f"_{name}": mask.copy() for name in info}


@jax.jit
def _reset(dream: Dream, starts: jax.Array, seed: jax.Array) -> tuple[Carry, Observation]:
    key, member_key = jax.random.split(jax.random.key(seed))
    state, observation = dream.reset_at(starts, member_key)
    return Carry(state, jnp.zeros(len(starts), bool), key), observation


@jax.jit
def _reset_some(
    dream: Dream, carry: Carry, starts: jax.Array, seed: jax.Array, mask: jax.Array
) -> tuple[Carry, Observation]:
    fresh, observation = _reset(dream, starts, seed)
    current = carry.state, decode_observation(dream.model, carry.state.model)
    state, observation = _select(mask, (fresh.state, observation), current)
    return Carry(state, carry.done & ~mask, fresh.key), observation


@partial(jax.jit, static_argnames="mode", donate_argnames="carry")
def _step(
    dream: Dream, carry: Carry, actions: jax.Array, mode: AutoresetMode
) -> tuple[Carry, VectorStep]:
    key, step_key, reset_key = jax.random.split(carry.key, 3)
    state, observation, reward, terminated, truncated, info = dream.step(
        carry.state, actions, step_key
    )
    final, reset = None, jnp.zeros_like(carry.done)
    if mode is AutoresetMode.NEXT_STEP:  # dreams that were done are reset instead of stepped
        reset = carry.done
        reward = jnp.where(reset, 0.0, reward)
        terminated, truncated = terminated & ~reset, truncated & ~reset
    elif mode is AutoresetMode.SAME_STEP:
        final, reset = observation, terminated | truncated
    done = (terminated | truncated) & ~reset

    def restart(current: tuple[DreamState, Observation]) -> tuple[DreamState, Observation]:
        return _select(reset, dream.reset(reset_key, len(reset)), current)

    state, observation = jax.lax.cond(reset.any(), restart, lambda x: x, (state, observation))
    outcome = VectorStep(
        observation, reward, terminated, truncated, info, reset, state.start, final
    )
    return Carry(state, done, key), outcome


def _select(mask: jax.Array, chosen: Any, others: Any) -> Any:
    """Elements of `chosen` where `mask` (B,), else of `others`; pytrees of (B, ...)."""

    def select(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(select, chosen, others)
