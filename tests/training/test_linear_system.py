"""A linear system whose best possible error is known: trained on its logs, a model nears it."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.config import Config, EvaluationOptions, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import DeviceLoader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation import Context
from worldmodel.evaluation.sections.prediction import Prediction
from worldmodel.models.rssm import RSSMOptions
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages

NOISE = 0.1
ANGLE = 0.6
A = 0.95 * np.array([[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]])
B = np.array([0.0, 0.5])


def logs(episodes: int, steps: int, seed: int) -> Trajectories:
    """x' = A x + B u + noise, u uniform in [-1, 1], x observed as it is."""
    rng = np.random.default_rng(seed)
    x = np.zeros((episodes, steps + 1, 2))
    u = rng.uniform(-1, 1, (episodes, steps + 1))
    x[:, 0] = rng.normal(size=(episodes, 2))
    for t in range(steps):
        x[:, t + 1] = x[:, t] @ A.T + u[:, t, None] * B + NOISE * rng.normal(size=(episodes, 2))
    u[:, -1] = 0
    return Trajectories(
        observations={"x": x.reshape(-1, 2).astype(np.float32)},
        actions=u.reshape(-1, 1).astype(np.float32),
        rewards=None,
        lengths=np.full(episodes, steps + 1),
        terminated=np.zeros(episodes, bool),
        action_spec=ActionSpec(False, 1, (-1.0,), (1.0,)),
        source="linear system",
    )


@pytest.mark.slow
def test_the_error_approaches_that_of_the_true_system() -> None:
    training, held_out = logs(300, 50, 0), logs(20, 50, 1)
    spec = training.spec({"x": "standardize"})
    options = StageOptions(
        steps=2000,
        batch_size=32,
        window=12,
        learning_rate=2e-3,
        warmup_steps=50,
        lr_decay_fraction=0.5,
    )
    config = Config(
        data=GymnasiumData(),
        # A weaker pull towards the prior: at 0.1, finer codes of x cost more than they gain.
        model=RSSMOptions(
            deter=64, hidden=32, stoch=8, classes=8, blocks=1, representation_scale=0.02
        ),
        policy=NoPolicy(),
        training=TrainingOptions(world_model=options),
    )
    learner = plan_stages(config, spec)["world_model"].build_learner()
    batches = DeviceLoader.build(training, options.batch_size, options.window, 0)
    keys = stage_keys(0, "world_model")
    dispatch = make_dispatch(learner, batches, meshes.all_devices(), options.steps)
    state, _ = dispatch(learner.init(keys.init), batches.arrays(), batches.feed(0, 1), keys.steps)
    model = trained_modules(learner, state)["model"]

    evaluated = EvaluationOptions(horizons=[1], context=8, starts_per_episode=20, num_samples=32)
    context = Context(model, None, spec, held_out, held_out, None, evaluated)
    result = Prediction.run(context).observations["x"]
    scale = np.mean(np.square(NOISE / np.asarray(spec.observations["x"].std)))
    # The median over starts of the norm of two independent normals, each of the noise's size.
    best = np.sqrt(scale) * np.sqrt(np.log(2))
    error = result.horizons[1].error.value
    print(f"error {error:.4f}, best possible {best:.4f}")
    assert best * 0.8 < error < best * 1.3
    assert result.horizons[1].persistence.value > best * 3
