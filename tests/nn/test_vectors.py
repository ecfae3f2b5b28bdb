"""The vectors of an observation as one: normalization, predictions, losses and programs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from worldmodel import models
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.mlp import MLPOptions
from worldmodel.nn.distributions import MAX_SEPARATE_LOSSES, losses
from worldmodel.nn.learner import split_module
from worldmodel.nn.vectors import Vectors

ACTION = ActionSpec(False, 1, (-1.0,), (1.0,))


def spec_of(sizes: dict[str, int], **normalization: str) -> DataSpec:
    rng = np.random.default_rng(0)
    observations = {}
    for key, size in sizes.items():
        mean, std, low, high = rng.uniform([-1, 0.5, -4, 2], [1, 2, -2, 4], (size, 4)).T.tolist()
        observations[key] = ObservationSpec(
            (size,), "float32", tuple(mean), tuple(std), tuple(low), tuple(high),
            normalization=normalization.get(key, "standardize"),
        )  # fmt: skip
    return DataSpec(observations, ACTION, has_reward=False)


def test_vectors_of_any_normalization_are_one_in_the_order_of_their_names(
    rng: np.random.Generator,
) -> None:
    spec = spec_of({"b": 2, "c": 3, "a": 1}, a="min_max", c="none")
    observation = {k: rng.normal(size=(5, *o.shape)) for k, o in spec.observations.items()}
    x = jax.tree.map(lambda x: x.astype(np.float32), observation)
    vectors = Vectors.of(spec)
    normalized = np.asarray(vectors.normalize(x))
    a, b = spec.observations["a"], spec.observations["b"]
    low, high = np.array(a.low), np.array(a.high)
    expected = [(x["a"] - (low + high) / 2) / (high - low) * 2, (x["b"] - b.mean) / b.std]
    expected.append(np.sign(x["c"]) * np.log1p(np.abs(x["c"])))
    np.testing.assert_allclose(normalized, np.concatenate(expected, -1), rtol=1e-5, atol=1e-6)
    predictions = vectors.predict(normalized)
    assert list(predictions) == ["a", "b", "c"]
    for key, prediction in predictions.items():
        np.testing.assert_allclose(prediction.mean(), x[key], rtol=1e-5, atol=1e-6)


def test_losses_of_many_vectors_are_summed(rng: np.random.Generator) -> None:
    keys = [f"k{i}" for i in range(MAX_SEPARATE_LOSSES + 1)]
    spec = spec_of(dict.fromkeys(keys, 2), k3="none", k4="none")
    x = {key: rng.normal(size=(5, 2)).astype(np.float32) for key in keys}
    predictions = Vectors.of(spec).predict(rng.normal(size=(5, 2 * len(keys))).astype(np.float32))
    each = {key: prediction.loss(x[key]) for key, prediction in predictions.items()}
    ((name, total),) = losses(predictions, x).items()
    assert name == f"{len(keys)}_vectors"
    np.testing.assert_allclose(total, sum(each.values()), rtol=1e-5)
    few = {key: predictions[key] for key in keys[1:]}
    assert jax.tree.all(jax.tree.map(np.array_equal, losses(few, x), {k: each[k] for k in few}))


@pytest.fixture(scope="module")
def programs() -> dict[int, tuple[int, int]]:
    """Keys of 64 columns in all -> numbers of parameter arrays and of lines of a gradient."""

    def measure(keys: int) -> tuple[int, int]:
        sizes = dict.fromkeys((f"k{i}" for i in range(keys)), 64 // keys)
        options = MLPOptions(units=8, latent_dim=6, burn_in=1)
        model = models.build(options, spec_of(sizes), jax.random.key(0))
        graphdef, params = split_module(model)
        no = np.zeros((2, 4), bool)
        observation = {key: np.zeros((2, 4, size), np.float32) for key, size in sizes.items()}
        numbers = np.zeros((2, 4), np.float32)
        window = Window(observation, numbers[..., None], numbers, no, no, no, ~no)

        def loss(params: Any, window: Window) -> jax.Array:
            return nnx.merge(graphdef, params).loss(window, jax.random.key(0))[0]

        program = jax.jit(jax.grad(loss)).lower(params, window).as_text()
        return len(jax.tree.leaves(params)), program.count("\n")

    return {keys: measure(keys) for keys in (1, 64)}


def test_many_keys_are_as_many_parameters_and_operations_as_one(
    programs: dict[int, tuple[int, int]],
) -> None:
    """A key adds little more than its part in a concatenation."""
    (arrays, lines), (arrays_of_many, lines_of_many) = programs[1], programs[64]
    assert arrays == arrays_of_many
    assert lines_of_many < lines + 64 * 15
