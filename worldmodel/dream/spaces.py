"""Gymnasium's spaces, actions and reset options of dreams, and the conversion of their arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction

from worldmodel.data.spec import ActionSpec, ObservationSpec
from worldmodel.dream.initial_states import InitialStates
from worldmodel.errors import UserError, check_count, did_you_mean


def observation_space(observations: Mapping[str, ObservationSpec]) -> spaces.Space[Any]:
    """A Box, or a Dict of them where several observations are named. Vectors have no bounds: a
    model may predict what no dataset holds.
    """
    boxes: dict[str, spaces.Space[Any]] = {name: _box(o) for name, o in observations.items()}
    return spaces.Dict(boxes) if len(boxes) > 1 else next(iter(boxes.values()))


def action_space(action: ActionSpec) -> spaces.Space[Any]:
    """A Discrete space of classes, or a Box with the bounds of the data. Parts are a Dict by their
    names; those that are numbered are a Tuple, or a MultiDiscrete where all are classes.
    """
    if action.parts:
        return _space_of_parts(dict(action.parts))
    if action.discrete:
        return spaces.Discrete(action.size)
    low, high = np.asarray(action.low, np.float32), np.asarray(action.high, np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _space_of_parts(parts: Mapping[str, ActionSpec]) -> spaces.Space[Any]:
    inner: dict[str, dict[str, ActionSpec]] = {}
    for path, part in parts.items():
        name, _, rest = path.partition("/")
        inner.setdefault(name, {})[rest] = part
    numbered = list(inner) == [str(k) for k in range(len(inner))]
    if numbered and all(set(below) == {""} and below[""].discrete for below in inner.values()):
        return spaces.MultiDiscrete([below[""].size for below in inner.values()])
    made = {
        name: action_space(below[""]) if set(below) == {""} else _space_of_parts(below)
        for name, below in inner.items()
    }
    return spaces.Tuple(list(made.values())) if numbered else spaces.Dict(made)


def to_host(tree: Any) -> Any:
    """Copies arrays of the device to NumPy arrays that the caller owns."""
    return jax.tree.map(np.array, jax.device_get(tree))


def to_space(
    observation: Mapping[str, np.ndarray], observations: Mapping[str, ObservationSpec]
) -> Any:
    """An observation of a model as `observation_space` defines it, in raw units."""
    raw = {name: observations[name].to_raw(value) for name, value in observation.items()}
    return raw if len(raw) > 1 else next(iter(raw.values()))


def validate_action(space: spaces.Space[Any], action: Any) -> Any:
    """An action, or a batch of them, in the space's shape and type; by name, as dicts, where it has
    parts.

    Raises InvalidAction for another shape or type, for a class that does not exist, and for numbers
    that are not finite: a dream would not recover from them until its reset.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner: Any = space.spaces if isinstance(space, spaces.Dict) else dict(enumerate(space))
        given: Any = dict(enumerate(action)) if isinstance(action, tuple | list) else action
        if not isinstance(given, Mapping) or set(given) != set(inner):
            raise InvalidAction(f"action {action!r}; accepted: {space}")
        return {str(name): validate_action(leaf, given[name]) for name, leaf in inner.items()}
    try:
        given = np.asarray(action)
        converted = given.astype(space.dtype, casting="same_kind")
    except (TypeError, ValueError):
        raise InvalidAction(f"action {action!r}; accepted: {space}") from None
    if converted.shape != space.shape:
        raise InvalidAction(f"action of shape {converted.shape}; accepted: {space}")
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        valid = np.isfinite(converted).all()
    else:
        valid = space.contains(converted)
    if not valid:
        raise InvalidAction(f"action {given.tolist()}; accepted: {space}, finite numbers")
    return converted


def start_info(initial_states: InitialStates, start: np.ndarray) -> dict[str, np.ndarray]:
    """The places in the dataset of the initial states `start`, indices () or (B,)."""
    return {
        "start_episode": np.asarray(initial_states.episode)[start],
        "start_step": np.asarray(initial_states.step)[start],
    }


def matching_starts(initial_states: InitialStates, options: dict[str, Any]) -> np.ndarray:
    """The indices of the initial states in `episode`, and there of `step`, where options have them.

    Raises UserError if there is none, and names those that exist.
    """
    if "episode" not in options:
        return np.arange(initial_states.size)
    episodes, steps = np.asarray(initial_states.episode), np.asarray(initial_states.step)
    episode, step = options["episode"], options.get("step")
    in_episode = episodes == episode
    if not in_episode.any():
        raise UserError(
            f"options: no dream begins in episode {episode}; accepted: "
            f"{', '.join(map(str, np.unique(episodes)))}"
        )
    matching = np.flatnonzero(in_episode & (steps == step) if step is not None else in_episode)
    if not len(matching):
        available = steps[in_episode]
        nearest = available[np.argmin(np.abs(available - step))]
        raise UserError(
            f"options: no dream begins at step {step} of episode {episode}; accepted: "
            f"{len(available)} steps from {available.min()} to {available.max()}, the nearest is "
            f"{nearest}"
        )
    return matching


def check_seed(seed: Any) -> None:
    """Raises ArgumentError unless `seed` is None or a seed of a generator."""
    if seed is not None:
        check_count("seed", seed, 0)


def validate_reset_options(
    options: dict[str, Any] | None, names: tuple[str, ...]
) -> dict[str, Any]:
    """The options of a reset. Raises UserError for a name that is not among `names`."""
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise UserError(f"options: {options!r}; accepted: a dict with {', '.join(names)}")
    for name in options:
        if name not in names:
            hint = did_you_mean(str(name), names)
            raise UserError(
                f"options: no such option of reset as {name!r}{hint}; accepted: {', '.join(names)}"
            )
    if "step" in options and "episode" not in options:
        raise UserError("options: step needs the number of an episode; accepted with episode")
    for name in ("episode", "step"):
        if name in options:
            check_count(f"options: {name}", options[name], 0)
    return options


def _box(observation: ObservationSpec) -> spaces.Box:
    if observation.is_image:
        return spaces.Box(0, 255, observation.shape, np.uint8)
    # With an offset, float32 would not hold what a model predicts.
    dtype = np.float64 if observation.offset else np.float32
    return spaces.Box(-np.inf, np.inf, observation.shape, dtype)
