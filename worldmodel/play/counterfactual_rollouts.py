"""Imagines what would follow from a logged step under other actions. Every source of actions has
the same initial state and the same noise, so that only the actions differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.trajectories import Trajectories, split_episodes
from worldmodel.data.windows import gather_windows, step_arrays
from worldmodel.dream.dream import require_step_model
from worldmodel.dream.initial_states import decode_observation, filter_windows
from worldmodel.environments.real import Observation
from worldmodel.errors import DataError
from worldmodel.evaluation.returns import random_policy
from worldmodel.loading import LoadedRun
from worldmodel.models.interface import State, WorldModel
from worldmodel.play.action_sources import require_policy, zero_policy

MAX_LISTED = 20  # episodes in a message


class LoggedStart(NamedTuple):
    """A step of a logged episode.

    dataset: this episode alone
    episode: its number
    step: the step to imagine from
    context: number of steps up to it that the model filters
    """

    dataset: Trajectories
    episode: int
    step: int
    context: int

    @property
    def steps_left(self) -> int:
        """The number of logged steps from there on."""
        return int(self.dataset.observed_lengths[0]) - 1 - self.step


class CounterfactualRollout(NamedTuple):
    """H steps.

    observation: name -> (H, ...) in raw units
    reward: (H,), or None without rewards
    survival: (H,) probability that the episode has not ended; None for logged steps
    """

    observation: Observation
    reward: np.ndarray | None
    survival: np.ndarray | None = None

    @property
    def steps(self) -> int:
        return len(next(iter(self.observation.values())))


def load_start(run: LoadedRun, episode: int, step: int | None, context: int) -> LoggedStart:
    """A step of a held-out episode; None: the last of the context.

    Raises DataError if the episode or step does not exist, or if the episode was trained on.
    """
    dataset = run.dataset()
    _, held_out = split_episodes(dataset.num_episodes, run.config.data.holdout)
    if episode not in held_out:
        why = (
            f"the dataset has {dataset.num_episodes} episodes"
            if episode >= dataset.num_episodes
            else "it belongs to the training split"
        )
        more = ", ..." if len(held_out) > MAX_LISTED else ""
        listed = ", ".join(map(str, held_out[:MAX_LISTED]))
        raise DataError(f"episode={episode}: {why}; accepted, held out: {listed}{more}")
    last = int(dataset.observed_lengths[episode]) - 2  # the last with an outcome to compare with
    if last < 0:
        raise DataError(f"episode={episode}: a single observation was logged; accepted: 2 or more")
    step = min(context - 1, last) if step is None else step
    if step > last:
        raise DataError(
            f"start_step={step}: episode {episode} has {last + 1} steps; accepted: 0 to {last}"
        )
    own = dataset.select(np.array([episode])).compact()
    return LoggedStart(own, episode, step, min(context, last + 1))  # no longer than the episode


def logged_rollout(start: LoggedStart, steps: int) -> CounterfactualRollout:
    """The logged steps after `start`, at most `steps_left`."""
    dataset, after = start.dataset, slice(start.step + 1, start.step + 1 + steps)
    rewards = dataset.rewards
    return CounterfactualRollout(
        {name: x[after] for name, x in dataset.observations.items()},
        None if rewards is None else rewards[start.step : start.step + steps],
    )


def counterfactual_rollouts(
    run: LoadedRun, start: LoggedStart, sources: Sequence[str], steps: int, seed: int
) -> dict[str, CounterfactualRollout]:
    """source -> the rollout imagined from `start` under its actions: logged, random, zero or
    policy. All share the initial state and the noise, which depend on `seed` alone.

    Raises ConfigError for a model that does not go step by step, and for the policy of a run
    without one.
    """
    require_step_model(run.model)
    if "policy" in sources:
        require_policy(run)
    state_key, key = jax.random.split(jax.random.key(seed))
    length = min(start.context, start.step + 1)
    first, lengths = np.array([start.step - length + 1]), np.array([length])
    window = gather_windows(step_arrays(start.dataset), first, lengths, start.context)
    state, _, _ = filter_windows(run.model, window, lengths - 1, state_key)
    rollouts = {}
    for source in sources:
        actions = _actions(source, run.spec, start, steps, seed)
        use_policy = jnp.asarray(source == "policy")
        rollout = imagine_counterfactual(
            run.model,
            run.policy,
            state,
            actions,
            use_policy,
            key,
            run.spec.has_reward,
            run.spec.action,
        )
        rollouts[source] = CounterfactualRollout(*jax.device_get(rollout))
    return rollouts


def _actions(source: str, spec: DataSpec, start: LoggedStart, steps: int, seed: int) -> jax.Array:
    """(H, ...) normalized actions; those of the policy are not used."""
    if source == "logged":
        raw = start.dataset.actions[start.step : start.step + steps]
    else:
        act = random_policy(spec) if source == "random" else zero_policy(spec)
        memory, actions = None, []
        for step in range(steps):  # neither looks at observations
            memory, (action,) = act(memory, {}, np.array([seed]), step)
            actions.append(action)
        raw = np.stack(actions)
    return jnp.asarray(spec.action.normalize(raw))


@nnx.jit(static_argnames=("has_reward", "spec"))
def imagine_counterfactual(
    model: WorldModel,
    policy: nnx.Module | None,
    state: State,
    actions: jax.Array,
    use_policy: jax.Array,
    key: jax.Array,
    has_reward: bool,
    spec: ActionSpec,
) -> tuple[dict[str, jax.Array], jax.Array | None, jax.Array]:
    """Observations, rewards and survival (H, ...) from `state` (1, ...) under `actions` (H, ...),
    or under the mode of the policy if `use_policy`. One program serves both, so that equal actions
    give equal bits.
    """
    begin_key, key = jax.random.split(key)
    step = model.make_step(state, begin_key)

    def advance(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, tuple]:
        action, key = inputs
        action = action[None]
        if policy is not None:
            mode = policy(model.features(state)).mode().astype(action.dtype)
            action = jnp.where(use_policy, mode, action)
        action = spec.clip(action)
        state = step(state, action, key)
        reward = model.reward(state).mean()[0] if has_reward else None
        observation = {name: value[0] for name, value in decode_observation(model, state).items()}
        return state, (observation, reward, 1.0 - model.terminal(state).mean()[0])

    keys = jax.random.split(key, len(actions))
    _, (observation, reward, continues) = jax.lax.scan(advance, state, (actions, keys))
    return observation, reward, jnp.cumprod(continues)
