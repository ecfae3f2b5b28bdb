"""The next-step diffusion model: histories, own samples in training, points and their scales."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models
from worldmodel.config import Config, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import DeviceLoader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window
from worldmodel.models.diffusion import DiffusionOptions, History, build_histories
from worldmodel.models.normalizer import VectorNormalizer
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

KEY = jax.random.key(0)
ACTION = ActionSpec(False, 1, (-1.0,), (1.0,))


def statistics(size: int, **values: tuple[float, ...]) -> ObservationSpec:
    return ObservationSpec((size,), "float32", **values)


# ---------------------------------------------------------------------------------------- histories


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_history_holds_the_rows_since_the_reset(rows: int, rng: np.random.Generator) -> None:
    """Against a list that is appended to row by row."""
    batch, length = 8, 12
    points, actions = rng.normal(size=(batch, length, 3)), rng.normal(size=(batch, length, 2))
    before = History(rng.normal(size=(batch, rows, 3)), rng.normal(size=(batch, rows - 1, 2)))
    last, begins = rng.normal(size=(batch, 2)), rng.uniform(size=(batch, length)) < 0.25
    found = build_histories(before, *map(jnp.asarray, (last, points, actions, begins)))
    for b in range(batch):
        seen, done = list(before.points[b]), [*before.actions[b], last[b]]
        for t in range(length):
            if begins[b, t]:
                seen, done = [points[b, t]] * rows, [np.zeros(2)] * (rows - 1)
            else:
                seen = [*seen, points[b, t]][1:]
                done = done[len(done) - (rows - 1) :]
            np.testing.assert_allclose(found.points[b, t], seen, rtol=1e-6)
            np.testing.assert_allclose(
                found.actions[b, t].reshape(-1, 2), np.reshape(done, (-1, 2))
            )
            done = [*done, actions[b, t]]


def windows(rng: np.random.Generator, batch: int, rows: int) -> Window:
    no = jnp.zeros((batch, rows), bool)
    return Window(
        observation={"x": jnp.asarray(rng.normal(size=(batch, rows, 3)), jnp.float32)},
        action=jnp.asarray(rng.uniform(-1, 1, (batch, rows, 1)), jnp.float32),
        reward=jnp.zeros((batch, rows)),
        is_first=no.at[:, 0].set(True), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def test_own_samples_are_fed_inside_an_episode_alone(rng: np.random.Generator) -> None:
    """With a reset at row 3 of 5, only row 2 follows a sampled row, which is drawn from row 0."""
    options = DiffusionOptions(autoregressive_steps=1)
    model = models.build(options, DataSpec({"x": statistics(3)}, ACTION), KEY)
    window = windows(rng, 4, 5)
    window = replace(window, is_first=window.is_first.at[:, 3].set(True))
    loss = jax.jit(lambda window: model.loss(window, KEY)[1][0])
    base = loss(window)

    def moved(row: int) -> tuple[bool, bool]:
        """Whether losses after logged, and after sampled histories, depend on the row."""
        x = window.observation["x"]
        other = loss(replace(window, observation={"x": x.at[:, row].add(0.5)}))
        return tuple(
            abs(float(other[f"loss/{name}"] - base[f"loss/{name}"])) > 1e-6
            for name in ("denoising", "denoising/1")
        )

    assert [moved(row)[0] for row in range(5)] == [True] * 5
    assert [moved(row)[1] for row in range(5)] == [True, False, True, False, False]


# ------------------------------------------------------------------------------------------- points


def test_points_are_standardised_vectors_and_back(rng: np.random.Generator) -> None:
    spec = DataSpec(
        {
            "b": statistics(2, mean=(1.0, 50.0), std=(2.0, 0.1), change=(1.0, 0.02)),
            "a": statistics(1, mean=(0.0,), std=(1.0,), change=(0.0,)),
        },
        ACTION,
    )
    vectors = VectorNormalizer.of(spec)
    raw = {"b": rng.normal(size=(5, 2)) * [2.0, 0.1] + [1.0, 50.0], "a": np.zeros((5, 1))}
    point = vectors.encode({key: jnp.asarray(x, jnp.float32) for key, x in raw.items()})
    np.testing.assert_allclose(point[:, 1:], (raw["b"] - [1.0, 50.0]) / [2.0, 0.1], atol=1e-3)
    for key, said in vectors.decode(point).items():
        np.testing.assert_allclose(said.mean(), raw[key], rtol=1e-5)
    # In standard deviations; what never changes hardly can.
    np.testing.assert_allclose(vectors.change(), [1e-3, 0.5, 0.2], rtol=1e-5)


# ----------------------------------------------------------------------------------- what it learns


def noisy_logs(episodes: int, steps: int = 20) -> Trajectories:
    """x' = 0.9 x + 0.3 u + 0.2 noise: what comes is uncertain, and how much is known."""
    rng = np.random.default_rng(0)
    x, u = np.zeros((episodes, steps + 1)), rng.uniform(-1, 1, (episodes, steps + 1))
    x[:, 0] = rng.normal(size=episodes)
    for t in range(steps):
        x[:, t + 1] = 0.9 * x[:, t] + 0.3 * u[:, t] + 0.2 * rng.normal(size=episodes)
    u[:, -1] = 0
    return Trajectories(
        observations={"x": x.reshape(-1, 1).astype(np.float32)},
        actions=u.reshape(-1, 1).astype(np.float32),
        rewards=None,
        lengths=np.full(episodes, steps + 1),
        terminated=np.zeros(episodes, bool),
        action_spec=ACTION,
        source="a noisy system",
    )


@pytest.mark.slow
def test_samples_have_the_mean_and_the_spread_of_the_world() -> None:
    logs = noisy_logs(500)
    stage = StageOptions(
        steps=3000,
        batch_size=64,
        window=8,
        learning_rate=1e-3,
        warmup_steps=50,
        lr_decay_fraction=0.5,
    )
    config = Config(
        data=GymnasiumData(),
        model=DiffusionOptions(history=1, sampler_steps=32, sampler="heun"),
        policy=NoPolicy(),
        training=TrainingOptions(world_model=stage),
    )
    learner = plan_stages(config, logs.spec())["world_model"].build_learner()
    batches, keys = DeviceLoader.build(logs, 64, 8, 0), stage_keys(0, "world_model")
    dispatch = make_dispatch(learner, batches, meshes.all_devices(), stage.steps)
    state, _ = dispatch(learner.init(keys.init), batches.arrays(), batches.cursor(0), keys.steps)
    model, count = trained_modules(learner, state)["model"], 4000
    for x, u in ((0.5, -1.0), (-0.8, 0.6), (0.0, 1.0)):
        window = windows(np.random.default_rng(0), count, 1)
        window = replace(window, observation={"x": jnp.full((count, 1, 1), x)})
        start = jax.tree.map(lambda v: v[:, 0], model.observe(window, KEY))
        actions = jnp.full((count, 5, 1), u)
        found = model.observation(model.rollout(start, actions, KEY))["x"].mean()[..., 0]
        mean, variance = x, 0.0
        for t in range(5):
            mean, variance = 0.9 * mean + 0.3 * u, 0.81 * variance + 0.04
            assert abs(float(found[:, t].mean()) - mean) < 0.05, (x, u, t)
            assert float(found[:, t].std()) == pytest.approx(variance**0.5, rel=0.12), (x, u, t)
