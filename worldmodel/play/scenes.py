"""What a video shows of a step: the real environment by its camera, and what is dreamed.

Images are shown as they are. A vector is shown by a second copy of the environment that is set to
what the vector says, where that can be done, else as curves beside the real numbers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from worldmodel.data.spec import DataSpec
from worldmodel.environments.real import RealEnvironment
from worldmodel.errors import UserError, first_line
from worldmodel.models.simulator import set_state, unobserved_positions
from worldmodel.play.curves import Curves
from worldmodel.play.live_comparison import ComparedStep
from worldmodel.play.options import PlayOptions
from worldmodel.play.video import Video

Scene = Callable[[ComparedStep], np.ndarray]  # (height, width, 3) uint8
Pose = Callable[[ComparedStep], None]
FPS = 20  # of environments that tell none


@contextmanager
def open_environment(
    name: str, spec: DataSpec, options: PlayOptions
) -> Iterator[tuple[RealEnvironment, Video | None]]:
    """The real environment, and a video of it where that is asked for."""
    with ExitStack() as stack:

        def made(rendered: bool) -> RealEnvironment:
            environment = RealEnvironment(name, spec, rendered)
            stack.callback(environment.close)
            return environment

        environment = made(drawn=False)  # which tells what is wrong with it
        if options.video is None:
            yield environment, None
            return
        _draw_without_display()
        image = next((key for key, o in spec.observations.items() if o.is_image), None)
        fps = environment.environment.metadata.get("render_fps") or FPS
        if image is not None:
            halves = [_seen(image), _dreamed(image)]
            yield environment, Video(options.video, halves, fps)
            return
        try:
            environment, copy = _drawable(made(rendered=True)), _drawable(made(rendered=True))
        except Exception as error:  # whatever the environment's own library makes of it
            why = f"{name} cannot be drawn here ({first_line(error)})"
            print(f"video: {why}; curves are drawn instead", file=sys.stderr)
            yield environment, Video(options.video, [Curves(spec)], fps)
            return
        pose = pose_setter(copy, environment)
        right = Curves(spec) if pose is None else _posed(copy, pose)
        yield environment, Video(options.video, [lambda _: environment.render(), right], fps)


def _draw_without_display() -> None:
    """MuJoCo and pygame ask for a display unless they are told that there is none."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _drawable(environment: RealEnvironment) -> RealEnvironment:
    environment.reset(0)
    frame = environment.render()
    if frame.ndim != 3:
        raise UserError("it has no rgb_array")
    return environment


def _seen(image: str) -> Scene:
    return lambda moment: moment.observation[image]


def _dreamed(image: str) -> Scene:
    return lambda moment: (moment.dreamed or moment).observation[image]


def _posed(copy: RealEnvironment, pose: Pose) -> Scene:
    def scene(moment: ComparedStep) -> np.ndarray:
        pose(moment)
        return copy.render()

    return scene


# ------------------------------------------------------------------------------------------- poses


def pose_setter(copy: RealEnvironment, original: RealEnvironment) -> Pose | None:
    """Sets `copy` to what is dreamed, and to the real observation before the model is alone; None
    where an environment's state cannot be set from what is observed.
    """
    if copy.environment.spec.id in POSES:
        return POSES[copy.environment.spec.id](copy.environment.unwrapped)
    hidden = unobserved_positions(copy.environment)
    if hidden is None:
        return None
    return _mujoco(copy.environment.unwrapped, original.environment.unwrapped, hidden)


def _vector(moment: ComparedStep) -> np.ndarray:
    """The only observation, dreamed where it is, in the precision of states."""
    (vector,) = (moment.dreamed or moment).observation.values()
    return np.asarray(vector, np.float64)


def _pendulum(copy: Any) -> Pose:
    def pose(moment: ComparedStep) -> None:
        cosine, sine, speed = _vector(moment)
        copy.state = np.array([np.arctan2(sine, cosine), speed])
        copy.last_u = float(np.clip(moment.action[0], -copy.max_torque, copy.max_torque))

    return pose


def _cart_pole(copy: Any) -> Pose:
    """It observes its state."""

    def pose(moment: ComparedStep) -> None:
        copy.state = _vector(moment)

    return pose


def _mujoco(copy: Any, original: Any, hidden: int) -> Pose:
    """Positions that are not observed, how far the robot has come, go on with the dreamed speed:
    the mean of that before and after a step.
    """
    unobserved, speed = np.zeros((2, hidden))
    moved = slice(copy.model.nq - hidden, copy.model.nq)  # their speeds in an observation

    def pose(moment: ComparedStep) -> None:
        vector = _vector(moment)
        if moment.dreamed is None:
            unobserved[:] = original.data.qpos[:hidden]
        else:
            unobserved[:] += copy.dt * (speed + vector[moved]) / 2
        speed[:] = vector[moved]
        set_state(copy, vector, unobserved)

    return pose


POSES: dict[str, Callable[[Any], Pose]] = {
    "Pendulum-v1": _pendulum,
    "CartPole-v0": _cart_pole,
    "CartPole-v1": _cart_pole,
}
