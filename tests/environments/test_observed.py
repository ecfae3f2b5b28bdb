"""What an environment shows becomes what its logs hold: the same conversion as that of readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldmodel.data import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.action_spaces import action_of_step
from worldmodel.data.collection import collect_episodes
from worldmodel.data.images import ImageConversion
from worldmodel.data.spaces import observation_parts
from worldmodel.environments import RealEnvironment, check_environment
from worldmodel.errors import UserError

NESTED = spaces.Dict(
    arm=spaces.Dict(joints=spaces.Box(-1, 1, (2, 3), np.float64), pair=spaces.Discrete(3, start=4)),
    camera=spaces.Box(0, 255, (5, 4), np.uint8),
    both=spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
    said=spaces.Text(5),
)
ACTION = ActionSpec(True, 2)


class Shows(gymnasium.Env):
    """Shows samples of its space, and whatever `shown` makes of them."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space, shown: Callable[[Any], Any] = lambda value: value):
        self.observation_space, self.shown = space, shown

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.shown(self.observation_space.sample()), {}

    def step(self, action):
        return self.shown(self.observation_space.sample()), 0.0, False, False, {}


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    names = []

    def add(space: spaces.Space, **kwargs: Any) -> str:
        names.append(f"Shows{len(names)}-v0")
        gymnasium.register(names[-1], Shows, max_episode_steps=4, kwargs={"space": space, **kwargs})
        return names[-1]

    yield add
    for name in names:
        del gymnasium.registry[name]


def spec_of(**observations: ObservationSpec) -> DataSpec:
    return DataSpec(observations, ACTION)


@pytest.mark.parametrize(
    "space",
    [
        NESTED,
        spaces.Discrete(4),
        spaces.Box(0, 255, (6,), np.uint8),
        spaces.Box(0, 255, (5, 4, 3), np.uint8),
        spaces.Box(0, 255, (3, 5, 4), np.uint8),
        spaces.Box(0, 1, (20, 24, 3), np.float32),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32))),
    ],
    ids=lambda space: type(space).__name__,
)
def test_what_was_collected_in_an_environment_fits_it_value_by_value(register, space):
    name = register(space)
    logs = collect_episodes(name, ["uniform"], 2, seed=3)
    real = RealEnvironment(name, logs.spec())
    seen = [real.reset(3), *(real.step(action).observation for action in logs.actions[:4])]
    assert seen[0].keys() == logs.observations.keys()
    for key, values in logs.observations.items():
        again = np.stack([observation[key] for observation in seen])
        np.testing.assert_array_equal(again, values[:5], strict=True)


def test_nested_names_and_one_hot_vectors():
    parts = observation_parts(NESTED, "a test")
    assert set(parts) == {"arm/joints", "arm/pair", "camera", "both/0", "both/1"}
    sample = {
        "arm": {"joints": np.zeros((2, 3)), "pair": 5},
        "camera": np.zeros((5, 4), np.uint8),
        "both": (np.array([0, 1], np.int8), np.array([1, 2])),
    }
    assert parts["arm/pair"].of_step(sample).tolist() == [0, 1, 0]
    assert parts["both/1"].of_step(sample).tolist() == [0, 1, 0, 0, 1]
    assert parts["camera"].of_step(sample).shape == (5, 4, 1)


def test_classes_that_were_logged_as_numbers_are_shown_as_numbers(register):
    for space in (spaces.Discrete(5, start=7), spaces.MultiDiscrete([3, 4])):
        name, size = register(space), len(np.atleast_1d(space.sample()))
        real = RealEnvironment(name, spec_of(state=ObservationSpec((size,), "float32")))
        raw, _ = gymnasium.make(name, disable_env_checker=True).reset(seed=1)
        np.testing.assert_array_equal(real.reset(1)["state"], np.atleast_1d(raw).astype(np.float32))


IMAGE = ObservationSpec((5, 4, 3), "uint8")


def test_images_are_resized_and_put_in_order_as_those_of_the_logs_were(register):
    name = register(spaces.Box(0, 255, (3, 20, 24), np.uint8))
    raw, _ = gymnasium.make(name, disable_env_checker=True).reset(seed=1)
    for shape, layout in (((3, 20, 24), "chw"), ((20, 24, 3), "hwc")):
        made = ImageConversion(shape, "uint8", layout, size=(10, 12))
        small = ObservationSpec((10, 12, 3), "uint8", conversion=made)
        real = RealEnvironment(name, spec_of(image=small))
        logged = raw if layout == "chw" else raw.transpose(1, 2, 0)
        np.testing.assert_array_equal(real.reset(1)["image"], made(logged), strict=True)


def test_logs_of_floats_and_an_environment_of_uint8_have_one_range(register):
    logged = ObservationSpec(
        (5, 4, 3), "uint8", conversion=ImageConversion((5, 4, 3), "float32", "hwc", white=1.0)
    )
    name = register(spaces.Box(0, 255, (5, 4, 3), np.uint8))
    raw, _ = gymnasium.make(name, disable_env_checker=True).reset(seed=1)
    seen = RealEnvironment(name, spec_of(image=logged)).reset(1)["image"]
    np.testing.assert_array_equal(seen, raw, strict=True)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_float_images_are_scaled_to_those_of_the_logs(register, white):
    name = register(spaces.Box(0, white, (5, 4, 3), np.float32))
    real = RealEnvironment(name, spec_of(image=IMAGE))
    raw, _ = gymnasium.make(name, disable_env_checker=True).reset(seed=1)
    seen = real.reset(1)["image"]
    assert seen.dtype == np.uint8
    np.testing.assert_allclose(seen, raw * (255 / white), atol=0.5001)
    assert seen.max() > 200


def test_float_images_without_bounds_are_refused_not_shown_black(register):
    name = register(spaces.Box(-np.inf, np.inf, (5, 4, 3), np.float32))
    with pytest.raises(UserError, match="float32 without bounds, the dataset has uint8 images"):
        check_environment(name, spec_of(image=IMAGE))


def test_float_images_of_an_environment_that_declares_uint8_are_refused(register):
    name = register(
        spaces.Box(0, 255, (5, 4, 3), np.uint8), shown=lambda image: (image / 255).astype("f4")
    )
    with pytest.raises(UserError, match="observation 'image' is float32; its space has uint8"):
        check_environment(name, spec_of(image=IMAGE))


def test_other_shapes_and_names_are_refused_in_words(register):
    name = register(NESTED)
    with pytest.raises(UserError, match="its observations are arm/joints, arm/pair, camera"):
        check_environment(name, spec_of(joints=ObservationSpec((6,), "float32")))
    with pytest.raises(UserError, match=r"'camera' is Box.*images of shape \(8, 4, 1\)"):
        check_environment(name, spec_of(camera=ObservationSpec((8, 4, 1), "uint8")))
    some = {"camera": ObservationSpec((5, 4, 1), "uint8")}
    check_environment(name, spec_of(**some))  # logs may hold a choice of the observations


def test_actions_are_clipped_and_rounded_as_the_space_declares():
    whole = spaces.Box(0, 9, (2,), np.int64)
    np.testing.assert_array_equal(
        action_of_step(whole, np.array([2.6, 12.0], np.float32)), np.array([3, 9]), strict=True
    )
    assert action_of_step(spaces.Discrete(3, start=5), np.int32(2)) == 7
