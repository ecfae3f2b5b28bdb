"""The diffusion model of the next step: histories, training on its own samples, and points."""

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
from worldmodel.nn.vectors import Vectors, typical_change
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

KEY = jax.random.key(0)
ACTION = ActionSpec(False, 1, (-1.0,), (1.0,))


def statistics(size: int, **values: tuple[float, ...]) -> ObservationSpec:
    return ObservationSpec((size,), "float32", **values)


# ---------------------------------------------------------------------------------------- histories


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_history_has_the_steps_since_the_reset(steps: int, rng: np.random.Generator) -> None:
    """Compared with lists to which one step after the other is appended."""
    batch, length = 8, 12
    points, actions = rng.normal(size=(batch, length, 3)), rng.normal(size=(batch, length, 2))
    before = History(rng.normal(size=(batch, steps, 3)), rng.normal(size=(batch, steps - 1, 2)))
    last, is_first = rng.normal(size=(batch, 2)), rng.uniform(size=(batch, length)) < 0.25
    histories = jax.device_get(jax.jit(build_histories)(before, last, points, actions, is_first))
    for b in range(batch):
        past, taken = list(before.points[b]), [*before.actions[b], last[b]]
        for t in range(length):
            if is_first[b, t]:
                past, taken = [points[b, t]] * steps, [np.zeros(2)] * (steps - 1)
            else:
                past = [*past, points[b, t]][1:]
                taken = taken[len(taken) - (steps - 1) :]
            np.testing.assert_allclose(histories.points[b, t], past, rtol=1e-6)
            np.testing.assert_allclose(
                histories.actions[b, t].reshape(-1, 2), np.reshape(taken, (-1, 2))
            )
            taken = [*taken, actions[b, t]]


def windows(rng: np.random.Generator, batch: int, steps: int) -> Window:
    no = np.zeros((batch, steps), bool)
    return Window(
        observation={"x": rng.normal(size=(batch, steps, 3)).astype(np.float32)},
        action=rng.uniform(-1, 1, (batch, steps, 1)).astype(np.float32),
        reward=np.zeros((batch, steps), np.float32),
        is_first=no | (np.arange(steps) == 0), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def test_training_continues_from_samples_within_an_episode_only(rng: np.random.Generator) -> None:
    """With a reset at step 3 of 5, only step 2 follows a sampled step, which follows step 0."""
    options = DiffusionOptions(autoregressive_steps=1, sampler_steps=1)
    model = models.build(options, DataSpec({"x": statistics(3)}, ACTION), KEY)
    window = windows(rng, 4, 5)
    window.is_first[:, 3] = True
    loss = jax.jit(lambda window: model.loss(window, KEY)[1][0])
    reference = loss(window)

    def affected(step: int) -> tuple[bool, ...]:
        """Whether the losses after dataset histories and after sampled ones depend on the step."""
        x = window.observation["x"].copy()
        x[:, step] += 0.5
        other = loss(replace(window, observation={"x": x}))
        return tuple(
            abs(float(other[f"loss/{name}"] - reference[f"loss/{name}"])) > 1e-6
            for name in ("denoising", "denoising/1")
        )

    assert [affected(step)[0] for step in range(5)] == [True] * 5
    assert [affected(step)[1] for step in range(5)] == [True, False, True, False, False]


# ------------------------------------------------------------------------------------------- points


def test_points_are_standardized_vectors(rng: np.random.Generator) -> None:
    spec = DataSpec(
        {
            "b": statistics(2, mean=(1.0, 50.0), std=(2.0, 0.1), delta_rms=(1.0, 0.02)),
            "a": statistics(1, mean=(0.0,), std=(1.0,), delta_rms=(0.0,)),
        },
        ACTION,
    )
    vectors = Vectors.of(spec, standardized=True)
    raw = {"b": rng.normal(size=(5, 2)) * [2.0, 0.1] + [1.0, 50.0], "a": np.zeros((5, 1))}
    point = vectors.normalize({key: x.astype(np.float32) for key, x in raw.items()})
    np.testing.assert_allclose(point[:, 1:], (raw["b"] - [1.0, 50.0]) / [2.0, 0.1], atol=1e-3)
    for key, prediction in vectors.predict(point).items():
        np.testing.assert_allclose(prediction.mean(), raw[key], rtol=1e-5)
    # In standard deviations; constants have a small positive one.
    np.testing.assert_allclose(typical_change(spec), [1e-3, 0.5, 0.2], rtol=1e-5)


# ---------------------------------------------------------------------------------------- learning


def noisy_dataset(episodes: int, steps: int = 20) -> Trajectories:
    """x' = 0.9 x + 0.3 u + 0.2 noise."""
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
def test_samples_have_the_mean_and_standard_deviation_of_the_system() -> None:
    dataset = noisy_dataset(500)
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
    learner = plan_stages(config, dataset.spec())["world_model"].build_learner()
    batches, keys = DeviceLoader.build(dataset, 64, 8, 0), stage_keys(0, "world_model")
    dispatch = make_dispatch(learner, batches, meshes.all_devices(), stage.steps)
    state, _ = dispatch(learner.init(keys.init), batches.arrays(), batches.feed(0, 1), keys.steps)
    model, count = trained_modules(learner, state)["model"], 4000
    for x, u in ((0.5, -1.0), (-0.8, 0.6), (0.0, 1.0)):
        window = windows(np.random.default_rng(0), count, 1)
        window = replace(window, observation={"x": jnp.full((count, 1, 1), x)})
        start = jax.tree.map(lambda v: v[:, 0], model.observe(window, KEY))
        actions = jnp.full((count, 5, 1), u)
        samples = model.observation(model.rollout(start, actions, KEY))["x"].mean()[..., 0]
        mean, variance = x, 0.0
        for t in range(5):
            mean, variance = 0.9 * mean + 0.3 * u, 0.81 * variance + 0.04
            assert abs(float(samples[:, t].mean()) - mean) < 0.05, (x, u, t)
            assert float(samples[:, t].std()) == pytest.approx(variance**0.5, rel=0.12), (x, u, t)
