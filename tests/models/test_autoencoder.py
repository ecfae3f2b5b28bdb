"""Images: an autoencoder is pretrained and frozen, and diffusion models work on its latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import worldmodel
from worldmodel.config import Config, LoggingOptions, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import pad_episodes
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import write_rlds
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError
from worldmodel.loading import evaluate_run
from worldmodel.models.autoencoder import Autoencoder
from worldmodel.models.diffusion import DiffusionOptions
from worldmodel.nn.learner import split_module
from worldmodel.runs.checkpoints import Checkpoints
from worldmodel.training.learners import trained_modules
from worldmodel.training.plan import plan_stages
from worldmodel.training.run import train

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images(dataset_of: Callable) -> Trajectories:
    return dataset_of("image")


@pytest.fixture
def autoencoder(images: Trajectories) -> Autoencoder:
    return Autoencoder(images.spec(), 6, 8, 2, rngs=nnx.Rngs(params=KEY))


def config_of(folder: Path, **training: object) -> Config:
    stage = StageOptions(steps=4, batch_size=4, window=6, learning_rate=1e-3, warmup_steps=0)
    config = Config(
        name="run", runs_dir=str(folder / "runs"), model=DiffusionOptions(latent_dim=6),
        data=TFDSData(path=str(folder / "dataset"), cache="never", holdout=0.25), policy=NoPolicy(),
        training=TrainingOptions(stage, stage, stage, log_every=2, checkpoint_every=4, **training),
        logging=LoggingOptions(wandb="disabled", progress="none"),
    )  # fmt: skip
    config.training.compilation_cache = None
    config.evaluation.horizons, config.evaluation.context = [1, 2], 2
    return config


@pytest.mark.slow
def test_the_autoencoder_is_trained_in_its_own_stage_and_then_frozen(
    images: Trajectories, tmp_path: Path
) -> None:
    config = config_of(tmp_path)
    write_rlds(images, tmp_path / "dataset", "images")
    assert train(config, evaluate_run) == 0
    run = worldmodel.load(tmp_path / "runs" / "run")
    stages = run.directory.summary()["stages"]
    assert list(stages) == ["autoencoder", "world_model"] and run.stage == "world_model"

    learner = plan_stages(config, run.spec)["autoencoder"].build_learner()
    like = jax.eval_shape(learner.init, KEY)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=device), like)
    checkpoints = Checkpoints(run.directory.checkpoints("autoencoder"), read_only=True)
    state, _ = checkpoints.restore(4, like)
    checkpoints.close()
    trained = split_module(trained_modules(learner, state)["autoencoder"])[1]
    frozen = split_module(run.model.autoencoder)[1]
    jax.tree.map(np.testing.assert_array_equal, frozen, trained)
    initial = learner.init(KEY).params["autoencoder"]
    assert not np.array_equal(initial["to_latent"]["kernel"], frozen["to_latent"]["kernel"])


def test_joint_training_with_a_pretrained_module_is_refused(
    images: Trajectories, tmp_path: Path
) -> None:
    config = config_of(tmp_path, joint=True)
    with pytest.raises(ConfigError, match="trains its autoencoder first.*joint=false"):
        plan_stages(config, images.spec())


def test_vectors_need_no_autoencoder(dataset_of: Callable, tmp_path: Path) -> None:
    spec = dataset_of("vector").spec()
    assert list(plan_stages(config_of(tmp_path), spec)) == ["world_model"]


def test_latents_saturate(images: Trajectories, autoencoder: Autoencoder) -> None:
    model = autoencoder
    model.to_latent.kernel[...] = 1e4 * model.to_latent.kernel[...]
    latent = jax.jit(model.encode)({"image": images.observations["image"][:5]})
    assert latent.shape == (5, 6) and 4.9 < float(np.abs(latent).max()) <= 5.0


def test_the_typical_change_of_latents_is_learned(
    images: Trajectories, autoencoder: Autoencoder
) -> None:
    """It converges to the root mean square over the dataset."""
    model = autoencoder
    window = pad_episodes(images, 9)
    graphdef, params = split_module(model)

    @jax.jit
    def step(params: dict) -> dict:
        grads = jax.grad(lambda p: nnx.merge(graphdef, p).loss(window, KEY)[0])(params)
        return params | {"log_change": params["log_change"] - grads["log_change"]}

    for _ in range(50):
        params = step(params)
    latent = np.asarray(jax.jit(model.encode)(window.observation))
    change = np.diff(latent, axis=1)[np.asarray(window.mask)[:, 1:]]
    expected = np.sqrt(np.square(change).mean(0))
    np.testing.assert_allclose(np.exp(params["log_change"]), expected, rtol=0.02)
