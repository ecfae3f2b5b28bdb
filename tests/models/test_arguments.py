"""Predictions and rollouts refuse arguments of other types, names and shapes in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.config import Config, NoPolicy
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ArgumentError
from worldmodel.imagination import imagine
from worldmodel.loading import LoadedRun
from worldmodel.models.encoded import EncodedState
from worldmodel.models.mlp import MLPOptions
from worldmodel.runs.directory import RunDirectory

KEY, OPTIONS = jax.random.key(0), MLPOptions(units=8, latent_dim=6, depth=2)
VECTORS = {"position": ObservationSpec((2,), "float32"), "speed": ObservationSpec((1,), "float32")}
CONTINUOUS = DataSpec(VECTORS, ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2))
IMAGES = DataSpec({"image": ObservationSpec((16, 16, 3), "uint8")}, ActionSpec(True, 3))
NUMBERS, CLASSES = np.zeros((4, 5, 2), np.float32), np.zeros((4, 5), np.int32)
STATES = EncodedState(np.zeros((4, 6), np.float32), np.zeros(4, np.int32))


@pytest.fixture(scope="module")
def model() -> models.WorldModel:
    return models.build(OPTIONS, CONTINUOUS, KEY)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"model": "run"}, "model: str; accepted: a WorldModel"),
        ({"start": None}, "start: NoneType of another structure; accepted"),
        ({"start": STATES.latent}, "start: ndarray of another structure"),
        (
            {"start": STATES._replace(latent=NUMBERS)},
            r"float32 \(4, 5, 2\), int32 \(4,\); acc",
        ),
        ({"start": jax.tree.map(lambda x: x[0], STATES)}, r"float32 \(6,\), int32; accepted"),
        (
            {"start": jax.tree.map(lambda x: x[:, None], STATES)},
            r"accepted: .*float32 \(B, 6\), int32 \(B\)",
        ),
        ({"start": jax.tree.map(lambda x: x.tolist(), STATES)}, "of another structure"),
        ({"horizon": 0}, "horizon: 0; accepted: an integer, at least 1"),
        ({"horizon": 5.0}, "horizon: 5.0; accepted: an integer"),
        ({"key": 0}, "key: int; accepted: one key, such as jax.random.key"),
        ({"key": jax.random.split(KEY)}, r"key: key<fry> \(2,\); accepted: one key"),
        ({"actor": None}, "actions: NoneType; accepted: numbers"),
        (
            {"actor": NUMBERS[:3]},
            r"accepted: numbers \(B, T, 2\), B=4 and T=1 or more",
        ),
        ({"actor": NUMBERS[:, :4]}, "4 actions for a horizon of 5"),
        (
            {"actor": NUMBERS, "horizon": 4},
            "actor: 5 actions for a horizon of 4; accepted: as many",
        ),
        ({"actor": NUMBERS[..., :1]}, r"float32 \(4, 5, 1\); accepted"),
        ({"actor": CLASSES}, r"int32 \(4, 5\); accepted"),
        (
            {"actor": lambda features: features},
            r"actor: it returns float32 \(4, 6\); accepted: .* a distrib",
        ),
    ],
)
def test_wrong_arguments_of_imagine_are_refused(
    model: models.WorldModel, wrong: dict[str, Any], expected: str
) -> None:
    right = {"model": model, "start": STATES, "actor": NUMBERS, "horizon": 5, "key": KEY}
    with pytest.raises(ArgumentError, match=expected):
        imagine(**right | wrong)


def run_of(spec: DataSpec) -> LoadedRun:
    config = Config("run", data=NPZData(path="x.npz"), model=OPTIONS, policy=NoPolicy())
    model = nnx.eval_shape(lambda: models.build(OPTIONS, spec, KEY))  # it is not called
    return LoadedRun(
        RunDirectory("run"), config, spec, "world_model", 1, model, policy=None, value=None
    )


OBSERVED = {"position": np.zeros((4, 3, 2)), "speed": np.zeros((4, 3, 1))}
PIXELS = np.zeros((4, 3, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        (
            {"observations": OBSERVED["position"]},
            r"observations: float64 .*accepted: position",
        ),
        ({"observations": {"position": OBSERVED["position"]}}, "'speed' is missing; accepted: pos"),
        (
            {"observations": {"positions": OBSERVED["position"], "speed": OBSERVED["speed"]}},
            r"'position' is missing \(did you mean 'positions'\?\)",
        ),
        ({"observations": OBSERVED | {"speed": [[0.0]]}}, "observation 'speed': list; accepted"),
        ({"observations": OBSERVED | {"speed": np.zeros((4, 3))}}, r"float32 \(B, T, 1\), B=4"),
        ({"observations": OBSERVED | {"speed": np.zeros((2, 3, 1))}}, r"float64 \(2, 3, 1\); acc"),
        ({"observations": OBSERVED | {"speed": np.full((4, 3, 1), "a")}}, r"<U1 \(4, 3, 1\); acc"),
        ({"context": 4}, r"observation 'position': float64 \(4, 3, 2\); accepted: .* T=4 or more"),
        ({"horizon": 4}, r"actions: float32 \(4, 5, 2\); accepted: .* T=6 or more"),
        ({"context": 0}, "context: 0; accepted: an integer"),
        ({"samples": True}, "samples: True; accepted: an integer"),
        ({"horizon": "3"}, "horizon: '3'; accepted: an integer"),
        ({"key": "seed"}, "key: str; accepted"),
        ({"actions": NUMBERS[0]}, r"actions: float32 \(5, 2\); accepted"),
        ({"actions": NUMBERS.tolist()}, "actions: list; accepted"),
        ({"actions": NUMBERS.astype(object)}, "actions: object"),
    ],
)
def test_wrong_arguments_of_predict_are_refused(wrong: dict[str, Any], expected: str) -> None:
    right = {"observations": OBSERVED, "actions": NUMBERS, "context": 3, "horizon": 2}
    with pytest.raises(ArgumentError, match=expected):
        run_of(CONTINUOUS).predict(**right | wrong)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        (
            {"observations": {"image": PIXELS / 255}},
            r"accepted: uint8 \(B, T, 16, 16, 3",
        ),
        ({"observations": {"image": PIXELS[..., 0]}}, r"uint8 \(4, 3, 16, 16\); accepted"),
        ({"actions": CLASSES.astype(float)}, r"float64 \(4, 5\); accepted: integers \(B, T\)"),
        ({"actions": CLASSES + 3}, "actions: 3 to 3; accepted: classes 0 to 2"),
    ],
)
def test_wrong_images_and_classes_are_refused(wrong: dict[str, Any], expected: str) -> None:
    right = {"observations": {"image": PIXELS}, "actions": CLASSES, "context": 3, "horizon": 2}
    with pytest.raises(ArgumentError, match=expected):
        run_of(IMAGES).predict(**right | wrong)


@pytest.mark.parametrize(
    "wrong, expected",
    [
        ({"observation": {"speed": NUMBERS[..., :1]}}, "'position': missing; accepted"),
        (
            {"observation": {"position": NUMBERS, "speed": NUMBERS}},
            r"'speed': .* accepted: \(..., 1\)",
        ),
        ({"action": NUMBERS[..., :1]}, r"action: float32 .* accepted: numbers \(..., 2\)"),
        ({"action": CLASSES}, r"action: int32 \(5, 4\); accepted: numbers"),
    ],
)
def test_filters_refuse_other_observations_and_actions(
    model: models.WorldModel, wrong: dict[str, Any], expected: str
) -> None:
    no = np.zeros((4, 5), bool)
    observation = {"position": NUMBERS, "speed": NUMBERS[..., :1]}
    window = Window(observation, NUMBERS, NUMBERS[..., 0], no, no, no, ~no)
    with pytest.raises(ArgumentError, match=expected):
        jax.eval_shape(model.observe, replace(window, **wrong), KEY)
