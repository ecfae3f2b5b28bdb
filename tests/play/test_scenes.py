"""The frames of a video."""

from __future__ import annotations

import io
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.environments.real import RealEnvironment
from worldmodel.play.counterfactual_report import plot_rollouts
from worldmodel.play.counterfactual_rollouts import CounterfactualRollout
from worldmodel.play.live_comparison import ComparedStep, Prediction
from worldmodel.play.live_report import StepTable
from worldmodel.play.scenes import Curves, pose_setter
from worldmodel.play.video import CAPTION, GAP, HEIGHT, Video


def step_of(
    step: int, real: np.ndarray, dreamed: np.ndarray | None, name: str = "state"
) -> ComparedStep:
    """A step with observations alone."""
    prediction = None
    if dreamed is not None:
        prediction = Prediction({name: dreamed}, 0.0, False, 0.0)
    return ComparedStep(step, np.zeros(1), {name: real}, 0.0, False, prediction)


def make(name: str) -> RealEnvironment:
    environment = gymnasium.make(name)
    size = environment.observation_space.shape[0]
    box = isinstance(environment.action_space, gymnasium.spaces.Box)
    action = (
        ActionSpec(False, n := environment.action_space.shape[0], (-1.0,) * n, (1.0,) * n)
        if box
        else ActionSpec(True, int(environment.action_space.n))
    )
    return RealEnvironment(name, DataSpec({"state": ObservationSpec((size,), "float32")}, action))


def test_the_copy_of_a_robot_moves_with_its_dreamed_velocity() -> None:
    """Observed positions and velocities are set exactly; the distance is integrated."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed: worldmodel[mujoco]")
    original, copy = make("HalfCheetah-v5"), make("HalfCheetah-v5")
    original.reset(0)
    pose = pose_setter(copy, original)
    copied, real = (e.environment.unwrapped.data for e in (copy, original))
    rng = np.random.default_rng(0)
    for step in range(1, 41):
        observation = original.step(rng.uniform(-1, 1, 6).astype(np.float32))[0]["state"]
        pose(step_of(step, observation, None if step < 10 else observation))
        np.testing.assert_allclose(copied.qpos[1:], real.qpos[1:], atol=1e-5)
        np.testing.assert_allclose(copied.qvel, real.qvel, atol=1e-5)
        assert copied.qpos[0] == pytest.approx(real.qpos[0], abs=1e-9 if step < 10 else 0.03)
    assert abs(real.qpos[0]) > 0.1  # the robot has moved
    pose(step_of(41, observation, np.zeros_like(observation)))
    np.testing.assert_array_equal(copied.qvel, 0)  # a dream may stand still


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_small_environments_are_set_to_the_dreamed_state(name: str) -> None:
    original, copy = make(name), make(name)
    real, dreamed = (original.reset(seed)["state"] for seed in (0, 1))
    pose = pose_setter(copy, original)
    pose(step_of(1, real, dreamed))
    np.testing.assert_allclose(
        copy.environment.unwrapped.state, original.environment.unwrapped.state
    )


def test_an_environment_whose_observation_is_not_its_state_has_no_copy() -> None:
    assert pose_setter(make("Acrobot-v1"), make("Acrobot-v1")) is None


def test_names_from_logs_are_drawn_and_printed_as_text() -> None:
    """A formula that Matplotlib cannot read, and a command of a terminal."""
    names = ("$a_b_c$", "\x1b[2J")
    spec = DataSpec({name: ObservationSpec((1,), "float32") for name in names}, ActionSpec(True, 2))
    values = {name: np.zeros(1, np.float32) for name in names}
    step = ComparedStep(1, np.zeros(()), values, 0.0, False, None)
    assert Curves(spec)(step).shape[-1] == 3
    lines = [*StepTable(spec).header(), StepTable(spec).line(step)]
    assert "$a_b_c$" in lines[1] and all(line.isprintable() for line in lines)
    rollout = CounterfactualRollout({name: np.zeros((2, 1)) for name in names}, None)
    figure = plot_rollouts({"zero": rollout}, None, spec)
    figure.savefig(io.BytesIO())
    assert [axes.get_title() for axes in figure.axes][:2] == ["$a_b_c$", "\\x1b[2J"]


@pytest.mark.parametrize("shape", [(6, 4, 2), (84, 84, 4), (20, 60, 12)])
def test_a_video_shows_stacked_frames_of_any_size(tmp_path: Path, shape: tuple) -> None:
    """Two gray frames as gray, and the first of several in colors."""
    video = Video(str(tmp_path / "v.gif"), [lambda m: m.observation["state"]], 20)
    image = np.full(shape, 90, np.uint8)
    video.add(step_of(1, image, image))
    width = round(shape[1] * HEIGHT / shape[0])
    assert video.images[0].size == (width, CAPTION + HEIGHT)
    assert video.images[0].convert("RGB").getpixel((width // 2, CAPTION + 9)) == (90, 90, 90)


def test_images_are_drawn_unchanged(tmp_path: Path) -> None:
    """A frame per step: the real image on the left, the dreamed one on the right, enlarged."""
    real, dreamed = np.zeros((2, 4, 4, 3), np.uint8)
    real[0], dreamed[:, 0] = 255, 255
    video = Video(
        str(tmp_path / "v.gif"),
        [lambda m: m.observation["state"], lambda m: m.dreamed.observation["state"]],
        20,
    )
    video.add(step_of(1, real, dreamed))
    video.add(step_of(2, dreamed, real))
    video.write()
    with Image.open(tmp_path / "v.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (2, 50)
        first = np.asarray(gif.convert("L"))[CAPTION:]
    cells = [HEIGHT // 4] * 2
    left, right = np.kron(real[..., 0], np.ones(cells)), np.kron(dreamed[..., 0], np.ones(cells))
    np.testing.assert_allclose(first[:, :HEIGHT], left, atol=8)
    np.testing.assert_allclose(first[:, HEIGHT + GAP :], right, atol=8)
