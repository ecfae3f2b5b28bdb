"""The loop: one compilation, no dependence on devices, and a stop with the step named when a loss
is lost.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from worldmodel.config import Config, NoPolicy, StageOptions, TrainingOptions
from worldmodel.data.loader import make_loader
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DivergenceError
from worldmodel.models.rssm import RSSMOptions
from worldmodel.runs.checkpoints import digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.training.dispatch import Stage, stage_keys, steps_per_dispatch
from worldmodel.training.loop import Run, StopRequest, run_stage
from worldmodel.training.metrics import WandB
from worldmodel.training.stages import build_learner

OPTIONS = StageOptions(steps=20, batch_size=8, window=6, learning_rate=1e-3, warmup_steps=5)
CONFIG = Config(
    name="test",
    data=GymnasiumData(),
    model=RSSMOptions(deter=32, hidden=16, classes=4, stoch=4, blocks=2),
    policy=NoPolicy(),
    training=TrainingOptions(
        world_model=OPTIONS, steps_per_dispatch=5, log_every=10, checkpoint_every=10
    ),
)


def train(
    folder: Path,
    pendulum: Trajectories,
    options: StageOptions = OPTIONS,
    loader: str = "device",
) -> dict:
    """Runs the world-model stage; returns its summary."""
    config = replace(CONFIG, training=replace(CONFIG.training, world_model=options))
    config.logging.wandb = "disabled"
    folder.mkdir(exist_ok=True)
    learner = build_learner(config, pendulum.spec(), "world_model")
    sizes = (options.batch_size, options.window)
    batches = make_loader(pendulum, *sizes, config.seed, loader)
    directory = RunDirectory(folder)
    wandb = WandB(config.logging, folder, {})
    run = Run(directory, config.training, config.seed, wandb, StopRequest(), "none")
    try:
        state = run_stage(Stage("world_model", learner, batches, options), run)
    finally:
        run.stop.close()
    summary = directory.summary()["stages"]["world_model"]
    assert summary["state_sha256"] == digest(state)
    return summary


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_step_compiles_once_and_every_row_is_written(
    tmp_path: Path, pendulum: Trajectories, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        summary = train(tmp_path / "run", pendulum)
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(dispatch)")]
    assert len(compiled) == 1
    assert [r["step"] for r in rows(tmp_path / "run")] == [10, 20]
    assert summary["last_step"] == 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pendulum: Trajectories) -> tuple[Path, dict]:
    """The folder and the summary of a finished run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, pendulum)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, pendulum: Trajectories) -> Path:
    """The folder of a run of the first half; for copies to go on from."""
    folder = tmp_path_factory.mktemp("half")
    train(folder, pendulum, replace(OPTIONS, steps=10))
    return folder


def test_a_run_in_two_parts_ends_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories, whole: tuple[Path, dict], half: Path
) -> None:
    folder, summary = whole
    parts = shutil.copytree(half, tmp_path / "parts")
    assert train(parts, pendulum)["state_sha256"] == summary["state_sha256"]
    keys = ("stage", "step", "loss/total", "latent/kl")
    for a, b in zip(rows(folder), rows(parts), strict=True):
        assert {k: a[k] for k in keys} == {k: b[k] for k in keys}


@pytest.mark.slow
def test_streamed_batches_train_the_same_model_and_resume_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    train(tmp_path / "device", pendulum)
    whole = train(tmp_path / "host", pendulum, loader="host")
    train(tmp_path / "parts", pendulum, replace(OPTIONS, steps=10), loader="host")
    parts = train(tmp_path / "parts", pendulum, loader="host")
    assert parts["state_sha256"] == whole["state_sha256"]
    for a, b in zip(rows(tmp_path / "device"), rows(tmp_path / "host"), strict=True):
        assert b["loss/total"] == pytest.approx(a["loss/total"], rel=1e-5)


def test_a_lost_loss_stops_with_the_step_named_and_the_checkpoint_kept(
    tmp_path: Path, pendulum: Trajectories, half: Path
) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"at step 1[1-9].*\n?.*last good checkpoint is 10"):
        train(run, pendulum, replace(OPTIONS, learning_rate=1e30, agc_clip=0.0))
    assert (run / "checkpoints" / "world_model" / "10").is_dir()
    assert train(run, pendulum)["last_step"] == 20  # goes on from the good one


def test_updates_per_dispatch_divide_every_interval() -> None:
    training = TrainingOptions(steps_per_dispatch=25, log_every=100, checkpoint_every=1000)
    assert steps_per_dispatch(training, 2500) == 25
    assert steps_per_dispatch(training, 1010) == 10
    assert steps_per_dispatch(training, 997) == 1


def test_stages_and_seeds_have_keys_of_their_own() -> None:
    data = [
        jax.random.key_data(k).tolist()
        for s in (0, 1)
        for n in ("world_model", "policy")
        for k in stage_keys(s, n)
    ]
    assert len({tuple(d) for d in data}) == 8


DEVICES = """
import json, sys
from pathlib import Path
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.readers.gymnasium import collect
sys.path.insert(0, sys.argv[1])
import test_loop
options = {"name": "pendulum", "environment": "Pendulum-v1", "episodes": 12}
logs = collect(GymnasiumData(**options, cache_dir=sys.argv[2]))
test_loop.train(Path(sys.argv[3]), logs, loader="host")
import jax
print(json.dumps({"devices": len(jax.devices()), "data": logs.fingerprint()}))
"""


def test_results_depend_on_neither_devices_nor_delivery(
    tmp_path: Path, pendulum: Trajectories, whole: tuple[Path, dict]
) -> None:
    """Streamed to eight devices as resident on one."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    words = [Path(__file__).parent, tmp_path / "datasets", tmp_path / "run"]
    command = [sys.executable, "-c", DEVICES, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result == {"devices": 8, "data": pendulum.fingerprint()}
    one, eight = ([r["loss/total"] for r in rows(f)] for f in (whole[0], tmp_path / "run"))
    assert eight == pytest.approx(one, rel=1e-5)
