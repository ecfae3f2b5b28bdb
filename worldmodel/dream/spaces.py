"""What Gymnasium is told of a dream, and how its arrays are handed over."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction

from worldmodel.data.spec import ActionSpec, ObservationSpec
from worldmodel.dream.initial_states import InitialStates
from worldmodel.errors import UserError, did_you_mean


def observation_space(observations: dict[str, ObservationSpec]) -> spaces.Space:
    """A Box, or a Dict of them where several are observed. A model may say what no log holds, so
    vectors have no bounds.
    """
    boxes = {name: _box(observation) for name, observation in observations.items()}
    return spaces.Dict(boxes) if len(boxes) > 1 else next(iter(boxes.values()))


def action_space(action: ActionSpec) -> spaces.Space:
    if action.discrete:
        return spaces.Discrete(action.size)
    return spaces.Box(np.float32(action.low), np.float32(action.high), dtype=np.float32)


def on_host(tree: Any) -> Any:
    """Arrays of the device as numpy's, which belong to whoever gets them."""
    return jax.tree.map(np.array, jax.device_get(tree))


def to_space(observation: dict[str, np.ndarray]) -> Any:
    """As `observation_space` has it."""
    return observation if len(observation) > 1 else next(iter(observation.values()))


def validate_action(space: spaces.Space, action: Any) -> np.ndarray:
    """An action, or a batch of them, in the space's shape and type.

    Raises InvalidAction where it has another shape, or is no class that there is.
    """
    action = np.asarray(action, space.dtype)
    if action.shape != space.shape:
        raise InvalidAction(f"action of shape {action.shape}; accepted: {space}")
    if not isinstance(space, spaces.Box) and not space.contains(action):
        raise InvalidAction(f"action {action}; accepted: {space}")
    return action


def start_info(initial_states: InitialStates, start: np.ndarray) -> dict[str, np.ndarray]:
    """Where in the logs the places `start` of the bank are."""
    return {
        "start_episode": np.asarray(initial_states.episode)[start],
        "start_step": np.asarray(initial_states.step)[start],
    }


def matching_starts(initial_states: InitialStates, options: dict[str, Any]) -> np.ndarray:
    """Where dreams may begin: the places in the bank of `episode`, and there of `row`, where
    `options` give them.

    Raises UserError where no dream begins there, and says where one does.
    """
    if "episode" not in options:
        return np.arange(initial_states.size)
    episodes, rows = np.asarray(initial_states.episode), np.asarray(initial_states.step)
    episode, row = options["episode"], options.get("step")
    there = episodes == episode
    if not there.any():
        raise UserError(
            f"options: no dream begins in episode {episode}; accepted: "
            f"{', '.join(map(str, np.unique(episodes)))}"
        )
    found = np.flatnonzero(there & (rows == row) if row is not None else there)
    if not len(found):
        kept = rows[there]
        close = kept[np.argmin(np.abs(kept - row))]
        raise UserError(
            f"options: no dream begins in row {row} of episode {episode}; accepted: "
            f"{len(kept)} rows from {kept.min()} to {kept.max()}, the nearest is {close}"
        )
    return found


def validate_reset_options(given: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options of a reset. Raises UserError for what is none of them."""
    given = given or {}
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UserError(
                f"options: no such option of reset as {name!r}{hint}; accepted: {', '.join(known)}"
            )
    if "step" in given and "episode" not in given:
        raise UserError("options: row is that of an episode; accepted with episode")
    return given


def _box(observation: ObservationSpec) -> spaces.Box:
    if observation.is_image:
        return spaces.Box(0, 255, observation.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, observation.shape, np.float32)
