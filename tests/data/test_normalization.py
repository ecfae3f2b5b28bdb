"""Vectors are normalized by training statistics, per observation, and back again."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from flax import nnx

from worldmodel.data import Trajectories, stack_episodes
from worldmodel.data.episodes import Episode
from worldmodel.data.normalization import resolve_normalization
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.trajectories import split
from worldmodel.errors import ConfigError
from worldmodel.nn.codecs import Decoder, DecoderSizes, Encoder


def logs(episodes: int = 10) -> Trajectories:
    """Columns far from zero, tiny and constant; one episode in ten is a thousand times larger."""
    rng = np.random.default_rng(0)

    def episode(e: int) -> Episode:
        x = rng.normal(size=(21, 3)) * [3.0, 1e-3, 0.0] + [500.0, 0.0, 7.0]
        return Episode(
            {"x": x * (1000 if e == 9 else 1), "y": x[:, :1]}, np.zeros((20, 1)), None, 0
        )

    return stack_episodes(map(episode, range(episodes)), "logs")


def rows(trajectories: Trajectories, key: str) -> np.ndarray:
    return trajectories.observations[key][trajectories.step_indices()].astype(np.float64)


def normalized(spec: DataSpec, key: str, x: np.ndarray) -> np.ndarray:
    shift, scale = spec.observations[key].shift_and_scale()
    return (x - shift) / scale


def test_standardized_columns_have_mean_0_and_deviation_1_and_constant_ones_are_0() -> None:
    trajectories = logs(9)
    x = normalized(trajectories.spec({"x": "standardize"}), "x", rows(trajectories, "x"))
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(0), [1, 1, 0], atol=1e-4)


def test_min_max_columns_fill_the_range_and_constant_ones_are_0() -> None:
    trajectories = logs(9)
    x = normalized(trajectories.spec({"x": "min_max"}), "x", rows(trajectories, "x"))
    np.testing.assert_allclose(x.min(0), [-1, -1, 0], atol=1e-4)
    np.testing.assert_allclose(x.max(0), [1, 1, 0], atol=1e-4)


@pytest.mark.parametrize("unit", [1e-30, 3e-7, 1.0, 1e30])
def test_the_unit_of_a_column_makes_no_difference(unit: float) -> None:
    """A column is constant by the resolution of float32 at its magnitude, not by its size."""
    steps = np.random.default_rng(0).normal(size=(21, 1))
    columns = np.hstack([steps, steps + 1000, np.full((21, 1), 0.1), 0.1 + 1e-9 * steps])
    columns = (columns * unit).astype(np.float32)  # of float64, the last one has an offset
    rewards = np.full(20, 0.1 * unit)
    spec = stack_episodes([Episode({"x": columns}, steps[1:], rewards, False)], "x").spec()
    std = np.asarray(spec.observations["x"].std)
    np.testing.assert_allclose(std[:2] / unit, steps.std(), rtol=1e-4)
    assert std[2:].tolist() == [1, 1] and spec.reward_mean_std[1] == 1


def test_statistics_are_those_of_the_training_split() -> None:
    whole = logs()
    training, _ = split(whole, 0.3)
    for part in (training, training.compact()):
        observation = part.spec().observations["x"]
        x = rows(part, "x")
        np.testing.assert_allclose(observation.mean, x.mean(0), rtol=1e-9)
        np.testing.assert_allclose(observation.std[:2], x.std(0)[:2], rtol=1e-6)
        np.testing.assert_allclose(observation.low, x.min(0))
        np.testing.assert_allclose(observation.high, x.max(0))
    assert whole.spec() != training.spec()


def test_a_spec_survives_json() -> None:
    spec = logs(9).spec({"x": "min_max"})
    assert DataSpec.from_json(spec.to_json()) == spec


def test_normalization_is_chosen_for_all_and_for_single_observations() -> None:
    trajectories = logs()

    def chosen(*entries: str) -> dict[str, str]:
        return resolve_normalization(NPZData(path="x", normalize=list(entries)), trajectories)

    assert chosen("standardize") == {"x": "standardize", "y": "standardize"}
    assert chosen("none", "y:min_max") == {"x": "none", "y": "min_max"}
    with pytest.raises(ConfigError, match=r"no vector 'z'.*accepted: x, y"):
        chosen("z:min_max")


@pytest.mark.parametrize("kind", ["none", "standardize", "min_max"])
def test_decoding_inverts_the_normalization_of_the_encoder(kind: str) -> None:
    """The mean is in the data's own units, and the loss is 0 where both agree."""
    trajectories = logs(9)
    spec = trajectories.spec(dict.fromkeys(("x", "y"), kind))
    rngs = nnx.Rngs(params=0)
    encoder = Encoder(spec, 8, 1, rngs=rngs, dtype=np.float32)
    decoder = Decoder(spec, DecoderSizes(4, 4, 8, 1), rngs=rngs, dtype=np.float32)
    x = trajectories.observations["x"][:5]
    y = trajectories.observations["y"][:5]
    normalized = encoder.vectors.normalize({"x": x, "y": y})
    prediction = decoder.output.vectors.predict(normalized)["x"]
    np.testing.assert_allclose(prediction.mean(), x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(prediction.loss(x), 0, atol=1e-6)
    if kind == "standardize":
        predicted = decoder(jax.numpy.zeros((5, 8)))["x"]
        assert predicted.mean().shape == (5, 3) and bool((predicted.loss(x) > 0).all())


def test_statistics_survive_json_bit_for_bit(rng):
    """spec.json stores all digits."""
    numbers = [tuple(rng.normal(size=3).tolist()) for _ in range(5)]
    observed = ObservationSpec((3,), "float32", *numbers, normalization="standardize")
    action = ActionSpec(False, 1, (-1 / 3,), (2 / 7,))
    spec = DataSpec({"x": observed}, action, reward_mean_std=(1 / 3, 2 / 7))
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
