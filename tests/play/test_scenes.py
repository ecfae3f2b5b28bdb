"""What a video shows."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from PIL import Image

from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.environments.real import RealEnvironment
from worldmodel.play.live_comparison import ComparedStep, DreamStep
from worldmodel.play.scenes import pose_setter
from worldmodel.play.video import CAPTION, GAP, HEIGHT, Video


def moment(
    step: int, real: np.ndarray, dreamed: np.ndarray | None, name: str = "seen"
) -> ComparedStep:
    """With nothing but what is observed."""
    said = None
    if dreamed is not None:
        said = DreamStep({name: dreamed}, 0.0, False, 0.0)
    return ComparedStep(step, np.zeros(1), {name: real}, 0.0, False, said)


def opened(name: str) -> RealEnvironment:
    environment = gymnasium.make(name)
    size = environment.observation_space.shape[0]
    box = isinstance(environment.action_space, gymnasium.spaces.Box)
    action = (
        ActionSpec(False, n := environment.action_space.shape[0], (-1.0,) * n, (1.0,) * n)
        if box
        else ActionSpec(True, int(environment.action_space.n))
    )
    return RealEnvironment(name, DataSpec({"seen": ObservationSpec((size,), "float32")}, action))


def test_the_copy_of_a_robot_goes_as_far_as_its_dreamed_speed_says() -> None:
    """Positions and velocities are set exactly; how far it came is not observed."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed: worldmodel[mujoco]")
    original, copy = opened("HalfCheetah-v5"), opened("HalfCheetah-v5")
    original.reset(0)
    pose = pose_setter(copy, original)
    mine, theirs = (e.environment.unwrapped.data for e in (copy, original))
    rng = np.random.default_rng(0)
    for step in range(1, 41):
        row = original.step(rng.uniform(-1, 1, 6).astype(np.float32))[0]["seen"]
        pose(moment(step, row, None if step < 10 else row))
        np.testing.assert_allclose(mine.qpos[1:], theirs.qpos[1:], atol=1e-5)
        np.testing.assert_allclose(mine.qvel, theirs.qvel, atol=1e-5)
        assert mine.qpos[0] == pytest.approx(theirs.qpos[0], abs=1e-9 if step < 10 else 0.03)
    assert abs(theirs.qpos[0]) > 0.1  # it has moved
    pose(moment(41, row, np.zeros_like(row)))
    np.testing.assert_array_equal(mine.qvel, 0)  # a dream may stand still meanwhile


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1"])
def test_small_environments_are_set_to_what_is_dreamed(name: str) -> None:
    original, copy = opened(name), opened(name)
    real, dreamed = (original.reset(seed)["seen"] for seed in (0, 1))
    pose = pose_setter(copy, original)
    pose(moment(1, real, dreamed))
    np.testing.assert_allclose(
        copy.environment.unwrapped.state, original.environment.unwrapped.state
    )


def test_an_environment_that_does_not_observe_its_state_has_no_copy() -> None:
    assert pose_setter(opened("Acrobot-v1"), opened("Acrobot-v1")) is None


def test_images_are_shown_as_they_are(tmp_path: Path) -> None:
    """A frame a step: left what is real, right what is dreamed, in larger pixels."""
    real, dreamed = np.zeros((2, 4, 4, 3), np.uint8)
    real[0], dreamed[:, 0] = 255, 255
    video = Video(
        str(tmp_path / "v.gif"),
        [lambda m: m.observation["seen"], lambda m: m.dreamed.observation["seen"]],
        20,
    )
    video.add(moment(1, real, dreamed))
    video.add(moment(2, dreamed, real))
    video.write()
    with Image.open(tmp_path / "v.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (2, 50)
        first = np.asarray(gif.convert("L"))[CAPTION:]
    cells = [HEIGHT // 4] * 2
    left, right = np.kron(real[..., 0], np.ones(cells)), np.kron(dreamed[..., 0], np.ones(cells))
    np.testing.assert_allclose(first[:, :HEIGHT], left, atol=8)
    np.testing.assert_allclose(first[:, HEIGHT + GAP :], right, atol=8)
