"""The panels of a video: the rendered real environment, and the dream.

Images are drawn unchanged. A vector is rendered by a second copy of the environment whose state is
set to it; where that is not possible, real and dreamed values are drawn as curves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.data.plots import ACTED, GRID, OBSERVED
from worldmodel.data.spec import DataSpec
from worldmodel.environments.real import RealEnvironment
from worldmodel.environments.states import set_state, unobserved_positions
from worldmodel.errors import UserError, first_line
from worldmodel.play.live_comparison import ComparedStep
from worldmodel.play.observation_values import flatten_observation, value_names
from worldmodel.play.options import PlayOptions
from worldmodel.play.video import Video

Scene = Callable[[ComparedStep], np.ndarray]  # (height, width, 3) uint8
Pose = Callable[[ComparedStep], None]
FPS = 20  # of environments without render_fps
MAX_CURVES = 4
SIZE, DPI = (4.0, 3.0), 80  # inches, and pixels per inch


@contextmanager
def open_environment(
    identity: str | EnvironmentId, spec: DataSpec, options: PlayOptions
) -> Iterator[tuple[RealEnvironment, Video | None]]:
    """The real environment, and a video of it with `options.video`."""
    with ExitStack() as stack:

        def make(rendered: bool) -> RealEnvironment:
            environment = RealEnvironment(identity, spec, rendered)
            stack.callback(environment.close)
            return environment

        environment = make(rendered=False)  # raises UserError for an unknown environment
        if options.video is None:
            yield environment, None
            return
        _render_without_display()
        image = next((key for key, o in spec.observations.items() if o.is_image), None)
        fps = environment.environment.metadata.get("render_fps") or FPS
        if image is not None:
            panels = [_real_image(image), _dreamed_image(image)]
            yield environment, Video(options.video, panels, fps)
            return
        try:
            environment, copy = (_check_rendering(make(rendered=True)) for _ in range(2))
        except Exception as error:  # anything that the environment's own library raises
            why = f"{identity} cannot be rendered here ({first_line(error)})"
            print(f"video: {why}; curves are drawn instead", file=sys.stderr)
            yield environment, Video(options.video, [Curves(spec)], fps)
            return
        shifted = any(o.offset for o in spec.observations.values())
        pose = None if shifted else pose_setter(copy, environment)
        right = Curves(spec) if pose is None else _posed_copy(copy, pose)
        yield environment, Video(options.video, [lambda _: environment.render(), right], fps)


def _render_without_display() -> None:
    """MuJoCo and pygame need a display unless these variables are set."""
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _check_rendering(environment: RealEnvironment) -> RealEnvironment:
    environment.reset(0)
    frame = environment.render()
    if frame.ndim != 3:
        raise UserError("it has no render mode rgb_array")
    return environment


def _real_image(image: str) -> Scene:
    return lambda step: step.observation[image]


def _dreamed_image(image: str) -> Scene:
    return lambda step: (step.dreamed or step).observation[image]


def _posed_copy(copy: RealEnvironment, pose: Pose) -> Scene:
    def scene(step: ComparedStep) -> np.ndarray:
        pose(step)
        return copy.render()

    return scene


class Curves:
    """A panel for each of the first observed values; a call adds a step and draws the frame."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.names = value_names(spec)[:MAX_CURVES]
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        self.canvas = FigureCanvasAgg(figure)
        self.axes = figure.subplots(len(self.names), 1, sharex=True, squeeze=False)[:, 0]
        self.lines = []
        for name, axes in zip(self.names, self.axes, strict=True):
            axes.set_ylabel(name, fontsize=8, parse_math=False)
            axes.tick_params(labelsize=7)
            axes.grid(color=GRID)
            (real,) = axes.plot([], [], color=OBSERVED, label="real")
            (dreamed,) = axes.plot([], [], color=ACTED, linestyle="--", label="dream")
            self.lines.append((real, dreamed))
        self.axes[0].legend(fontsize=7, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
        self.steps: list[int] = []
        self.values: list[np.ndarray] = []

    def __call__(self, step: ComparedStep) -> np.ndarray:
        real = flatten_observation(step.observation, self.spec)[: len(self.names)]
        dreamed = np.full_like(real, np.nan)
        if step.dreamed is not None:
            dreamed = flatten_observation(step.dreamed.observation, self.spec)[: len(self.names)]
        self.steps.append(step.step)
        self.values.append(np.stack([real, dreamed]))
        over_time = np.stack(self.values)
        for i, (axes, lines) in enumerate(zip(self.axes, self.lines, strict=True)):
            for j, line in enumerate(lines):
                line.set_data(self.steps, over_time[:, j, i])
            axes.relim()
            axes.autoscale_view()
        self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


# ------------------------------------------------------------------------------------------- poses


def pose_setter(copy: RealEnvironment, original: RealEnvironment) -> Pose | None:
    """Sets the state of `copy` from the dreamed observation, or from the real one before the dream
    begins. None if observations do not determine the environment's state.
    """
    name = copy.environment.spec.id if copy.environment.spec is not None else None
    if name in POSES:
        return POSES[name](copy.environment.unwrapped)
    hidden = unobserved_positions(copy.environment)
    if hidden is None:
        return None
    return _mujoco(copy.environment.unwrapped, original.environment.unwrapped, hidden)


def _vector(step: ComparedStep) -> np.ndarray:
    """The only observation, the dreamed one if there is one, in float64."""
    (vector,) = (step.dreamed or step).observation.values()
    return np.asarray(vector, np.float64)


def _pendulum(copy: Any) -> Pose:
    def pose(step: ComparedStep) -> None:
        cosine, sine, speed = _vector(step)
        copy.state = np.array([np.arctan2(sine, cosine), speed])
        copy.last_u = float(np.clip(step.action[0], -copy.max_torque, copy.max_torque))

    return pose


def _cart_pole(copy: Any) -> Pose:
    """Its observation is its state."""

    def pose(step: ComparedStep) -> None:
        copy.state = _vector(step)

    return pose


def _mujoco(copy: Any, original: Any, hidden: int) -> Pose:
    """Positions that are not observed (how far the robot has come) are integrated from the dreamed
    velocity, the mean of that before and after a step.
    """
    unobserved, velocity = np.zeros((2, hidden))
    own = slice(copy.model.nq - hidden, copy.model.nq)  # their velocities in an observation

    def pose(step: ComparedStep) -> None:
        vector = _vector(step)
        if step.dreamed is None:
            unobserved[:] = original.data.qpos[:hidden]
        else:
            unobserved[:] += copy.dt * (velocity + vector[own]) / 2
        velocity[:] = vector[own]
        set_state(copy, vector, unobserved)

    return pose


POSES: dict[str, Callable[[Any], Pose]] = {
    "Pendulum-v1": _pendulum,
    "CartPole-v0": _cart_pole,
    "CartPole-v1": _cart_pole,
}
