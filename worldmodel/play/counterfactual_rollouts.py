"""What would follow from a logged row, had something else been done there: each choice of actions
is imagined from the same state and with the same noise, so that only the actions differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import data
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories, split_episodes
from worldmodel.data.windows import gather_windows, step_arrays
from worldmodel.dream.dream import require_step_model
from worldmodel.dream.initial_states import decode_observation, filter_windows
from worldmodel.environments.real import Observation
from worldmodel.errors import DataError
from worldmodel.evaluation.returns import ActFunction, random_policy
from worldmodel.loading import LoadedRun
from worldmodel.models.interface import State, WorldModel
from worldmodel.play.action_sources import require_policy, zero_policy

MOST_LISTED = 20  # episodes in a message


class LoggedStart(NamedTuple):
    """A row of a logged episode, which is alone in `logs`; `context` rows up to it are seen."""

    logs: Trajectories
    number: int
    row: int
    context: int

    @property
    def steps_left(self) -> int:
        """Steps that were logged from there on."""
        return int(self.logs.lengths[0]) - 1 - self.row


class CounterfactualRollout(NamedTuple):
    """H steps. `survival`: probability that the episode did not end before or at each of them, None
    of logged ones.

    observation: {name: (H, ...)} in raw units; reward: (H,), None where there is none
    """

    observation: Observation
    reward: np.ndarray | None
    survival: np.ndarray | None = None


def load_start(run: LoadedRun, episode: int, row: int | None, context: int) -> LoggedStart:
    """A row of a held-out episode, by its number in the logs; none: the last of the context.

    Raises DataError where there is no such episode or row, or where it was trained on.
    """
    logs = data.load(run.config.data)
    run.directory.check_dataset(run.spec, logs.fingerprint())
    _, held_out = split_episodes(logs.num_episodes, run.config.data.holdout)
    if episode not in held_out:
        why = (
            f"the logs have {logs.num_episodes}"
            if episode >= logs.num_episodes
            else "it is of the training split"
        )
        more = ", ..." if len(held_out) > MOST_LISTED else ""
        listed = ", ".join(map(str, held_out[:MOST_LISTED]))
        raise DataError(f"episode={episode}: {why}; accepted, held out: {listed}{more}")
    last = int(logs.lengths[episode]) - 2  # in the row after it there is nothing to do
    row = min(context - 1, last) if row is None else row
    if row > last:
        raise DataError(
            f"start_step={row}: episode {episode} has {last + 1} steps; accepted: rows 0 to {last}"
        )
    return LoggedStart(logs.select(np.array([episode])).compact(), episode, row, context)


def logged_rollout(start: LoggedStart, steps: int) -> CounterfactualRollout:
    """What did follow. `steps` are no more than were logged."""
    logs, after = start.logs, slice(start.row + 1, start.row + 1 + steps)
    reward = None if logs.rewards is None else logs.rewards[start.row : start.row + steps]
    return CounterfactualRollout({name: x[after] for name, x in logs.observations.items()}, reward)


def counterfactual_rollouts(
    run: LoadedRun, start: LoggedStart, names: Sequence[str], steps: int, seed: int
) -> dict[str, CounterfactualRollout]:
    """name -> what is imagined from `start` under that choice of actions: logged, random, zeros or
    policy. All share the state they begin from, and all noise: it belongs to `seed`.

    Raises ConfigError for a model that does not step, and where a run has no policy.
    """
    require_step_model(run.model)
    if "policy" in names:
        require_policy(run)
    state_key, key = jax.random.split(jax.random.key(seed))
    seen = min(start.context, start.row + 1)
    first, counts = np.array([start.row - seen + 1]), np.array([seen])
    window = gather_windows(step_arrays(start.logs), first, counts, start.context)
    state, _, _ = filter_windows(run.model, window, counts - 1, state_key)
    return {
        name: _on_host(
            imagine(
                run.model,
                run.policy,
                state,
                _actions(name, run.spec, start, steps, seed),
                jnp.asarray(name == "policy"),
                key,
                run.spec.has_reward,
            )
        )
        for name in names
    }


def _actions(name: str, spec: DataSpec, start: LoggedStart, steps: int, seed: int) -> jax.Array:
    """(H, ...) as models see them; where the policy acts, they are not looked at."""
    if name == "logged":
        raw = start.logs.actions[start.row : start.row + steps]
    else:
        raw = _chosen(random_policy(spec) if name == "random" else zero_policy(spec), steps, seed)
    return jnp.asarray(spec.action.normalize(raw))


def _chosen(act: ActFunction, steps: int, seed: int) -> np.ndarray:
    """(H, ...) raw actions of one who does not look."""
    memory, actions = None, []
    for step in range(steps):
        memory, (action,) = act(memory, {}, np.array([seed]), step)
        actions.append(action)
    return np.stack(actions)


@nnx.jit(static_argnames="has_reward")
def imagine(
    model: WorldModel,
    policy: nnx.Module | None,
    state: State,
    actions: jax.Array,
    use_policy: jax.Array,
    key: jax.Array,
    has_reward: bool,
) -> CounterfactualRollout:
    """What follows from `state` (1, ...) under `actions` (H, ...), or where `use_policy`, under the
    mode of the policy. One program serves both, so that equal actions give equal bits.
    """
    begin_key, key = jax.random.split(key)
    step = model.make_step(state, begin_key)

    def advance(
        state: State, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[State, CounterfactualRollout]:
        action, key = inputs
        action = action[None]
        if policy is not None:
            mode = policy(model.features(state)).mode().astype(action.dtype)
            action = jnp.where(use_policy, mode, action)
        if jnp.issubdtype(action.dtype, jnp.floating):
            action = jnp.clip(action, -1.0, 1.0)
        state = step(state, action, key)
        reward = model.reward(state).mean()[0] if has_reward else None
        seen = {name: value[0] for name, value in decode_observation(model, state).items()}
        return state, CounterfactualRollout(seen, reward, 1.0 - model.terminal(state).mean()[0])

    keys = jax.random.split(key, len(actions))
    _, future = jax.lax.scan(advance, state, (actions, keys))
    return future._replace(survival=jnp.cumprod(future.survival))


def _on_host(future: CounterfactualRollout) -> CounterfactualRollout:
    return jax.tree.map(np.asarray, jax.device_get(future))
