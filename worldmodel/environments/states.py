"""Setting the state of an environment from logged values, where these determine it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs import classic_control

Values = Mapping[str, np.ndarray]  # logged values of a step, by name
CLIPPED_SPEED = 10.0  # beyond which Hopper and Walker2d do not observe velocities
POSITIONS, VELOCITIES, STATES = ("qpos", "qvel", ("state", "states"))


class StateSetter(NamedTuple):
    """Sets the state of an environment from the logged values of a step.

    source: what the state is taken from, in words
    apply: sets it
    determines: whether these values determine the state
    """

    source: str
    apply: Callable[[Values], None]
    determines: Callable[[Values], bool] = lambda values: True


def is_state(name: str) -> bool:
    """Whether a logged field is a simulator's state, and not what an agent observes."""
    return name.rpartition("/")[2] in (POSITIONS, VELOCITIES, *STATES)


def state_setter(
    environment: gymnasium.Env, sizes: Mapping[str, int], observed: Sequence[str]
) -> StateSetter | None:
    """How to set the state from vectors of these sizes, by name; None where that is not known.

    observed: names of what the environment shows; the others were logged in addition

    MuJoCo: from logged `qpos` and `qvel`, from `states` (robomimic), or from observations that
    omit only the first positions. Classic control: from the observation.
    """
    unwrapped = environment.unwrapped
    if hasattr(unwrapped, "set_state") and hasattr(unwrapped, "model"):
        logged = {name: size for name, size in sizes.items() if name not in observed}
        return _from_simulator_state(unwrapped, logged) or _from_observation(environment, observed)
    if len(observed) != 1:
        return None
    (name,) = observed
    for kind, state_of in CLASSIC.items():
        if isinstance(unwrapped, kind):
            return _classic(unwrapped, name, state_of)
    return None


def _classic(
    unwrapped: Any, name: str, state_of: Callable[[np.ndarray], np.ndarray]
) -> StateSetter:
    def apply(values: Values) -> None:
        unwrapped.state = state_of(np.asarray(values[name], np.float64))
        if hasattr(unwrapped, "steps_beyond_terminated"):
            unwrapped.steps_beyond_terminated = None

    return StateSetter(f"the logged {name!r}", apply)


def _pendulum(observation: np.ndarray) -> np.ndarray:
    cosine, sine, speed = observation
    return np.array([np.arctan2(sine, cosine), speed])


def _acrobot(observation: np.ndarray) -> np.ndarray:
    cosine_1, sine_1, cosine_2, sine_2, *speeds = observation
    return np.array([np.arctan2(sine_1, cosine_1), np.arctan2(sine_2, cosine_2), *speeds])


CLASSIC: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    classic_control.PendulumEnv: _pendulum,
    classic_control.AcrobotEnv: _acrobot,
    classic_control.CartPoleEnv: lambda observation: observation,
    classic_control.MountainCarEnv: lambda observation: observation,
    classic_control.Continuous_MountainCarEnv: lambda observation: observation,
}


# ------------------------------------------------------------------------------------------ MuJoCo


def _from_simulator_state(unwrapped: Any, sizes: Mapping[str, int]) -> StateSetter | None:
    """From logged positions and velocities, or from both in one vector, with the time before."""
    nq, nv = unwrapped.model.nq, unwrapped.model.nv
    named = {name.rpartition("/")[2]: name for name in sizes}
    positions, velocities = named.get(POSITIONS), named.get(VELOCITIES)
    if positions and velocities and (sizes[positions], sizes[velocities]) == (nq, nv):

        def apply(values: Values) -> None:
            _set(unwrapped, values[positions], values[velocities])

        return StateSetter(f"the logged {positions!r} and {velocities!r}", apply)
    whole = [name for name in map(named.get, STATES) if name and sizes[name] - nq - nv in (0, 1)]
    if not whole:
        return None
    time = sizes[whole[0]] - nq - nv

    def apply_state(values: Values) -> None:
        state = values[whole[0]][time:]
        _set(unwrapped, state[:nq], state[nq:])

    return StateSetter(f"the logged {whole[0]!r}", apply_state)


def _from_observation(environment: gymnasium.Env, observed: Sequence[str]) -> StateSetter | None:
    hidden = unobserved_positions(environment)
    if hidden is None or len(observed) != 1:
        return None
    unwrapped: Any = environment.unwrapped
    (name,), unobserved, positions = observed, np.zeros(hidden), unwrapped.model.nq - hidden
    clips = type(unwrapped).__name__.startswith(("Hopper", "Walker2d"))

    def apply(values: Values) -> None:
        set_state(unwrapped, np.asarray(values[name], np.float64), unobserved)

    def determines(values: Values) -> bool:
        return not clips or bool((np.abs(values[name][positions:]) < CLIPPED_SPEED).all())

    return StateSetter(f"positions and velocities in the logged {name!r}", apply, determines)


def unobserved_positions(environment: Any) -> int | None:
    """The number of first positions that the observations of a MuJoCo environment omit, if they
    include all others and the velocities; None for any other environment.
    """
    space, environment = environment.observation_space, environment.unwrapped
    if not (hasattr(environment, "set_state") and isinstance(space, gymnasium.spaces.Box)):
        return None
    model, data = environment.model, environment.data
    hidden = model.nq + model.nv - space.shape[0]
    if hidden < 0 or len(space.shape) > 1:
        return None
    observed, _ = environment.reset(seed=0)
    expected = np.concatenate([data.qpos[hidden:], data.qvel])
    return hidden if np.allclose(observed, expected) else None


def set_state(environment: Any, observation: np.ndarray, unobserved: np.ndarray) -> None:
    """Sets the state of an unwrapped MuJoCo environment from an observation (D,) and the unobserved
    positions.
    """
    positions = environment.model.nq - len(unobserved)
    _set(
        environment,
        np.concatenate([unobserved, observation[:positions]]),
        observation[positions:],
    )


def _set(environment: Any, positions: np.ndarray, velocities: np.ndarray) -> None:
    import mujoco

    model, data = environment.model, environment.data
    # The solver is warm-started: without a reset, the last bits would depend on earlier calls.
    mujoco.mj_resetData(model, data)  # pyright: ignore[reportAttributeAccessIssue]  # no stubs
    environment.set_state(positions, velocities)
