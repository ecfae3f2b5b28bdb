"""The training loop compiles once, resumes in the same bits, stops where a loss is lost, and its
results depend on neither devices nor loader.
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
from small_runs import RSSM, STAGE, read_rows, small_config, small_plan, train_stage

from worldmodel.config import StageOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import DivergenceError
from worldmodel.models.mlp import MLPOptions
from worldmodel.runs.checkpoints import digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.training.dispatch import largest_common_divisor, stage_keys


def train(
    folder: Path,
    trajectories: Trajectories,
    stage: StageOptions = STAGE,
    loader: str = "device",
    rssm: bool = False,
) -> dict:
    """Trains the stage of a world model; returns its summary."""
    config = small_config(RSSM if rssm else MLPOptions(units=16, latent_dim=8), stage)
    plan = replace(small_plan(trajectories, config), loader=loader)
    state = train_stage(plan, folder, trajectories)
    summary = RunDirectory(folder).summary()["stages"]["world_model"]
    assert summary["state_sha256"] == digest(state)
    return summary


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pendulum: Trajectories) -> tuple[Path, dict]:
    """The folder and the summary of a complete stage."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder, pendulum)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, pendulum: Trajectories) -> Path:
    """The folder of a stage that has trained for half of its steps."""
    folder = tmp_path_factory.mktemp("half")
    train(folder, pendulum, replace(STAGE, steps=10))
    return folder


def test_the_update_compiles_once_and_every_row_is_written(
    tmp_path: Path, pendulum: Trajectories, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        summary = train(tmp_path / "run", pendulum)
    compiled = [r for r in caplog.messages if r.startswith("Compiling jit(dispatch)")]
    assert len(compiled) == 1
    assert [r["step"] for r in read_rows(tmp_path / "run")] == [10, 20]
    assert summary["last_step"] == 20


def test_a_run_in_two_parts_ends_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories, whole: tuple[Path, dict], half: Path
) -> None:
    folder, summary = whole
    parts = shutil.copytree(half, tmp_path / "parts")
    assert train(parts, pendulum)["state_sha256"] == summary["state_sha256"]
    clocks = ("time", "updates_per_second", "data_wait_fraction")
    for a, b in zip(read_rows(folder), read_rows(parts), strict=True):
        assert all(a[name] == b[name] for name in a if name not in clocks)


@pytest.mark.slow
def test_streamed_batches_train_the_same_model_and_resume_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    train(tmp_path / "device", pendulum)
    whole = train(tmp_path / "host", pendulum, loader="host")
    train(tmp_path / "parts", pendulum, replace(STAGE, steps=10), loader="host")
    parts = train(tmp_path / "parts", pendulum, loader="host")
    assert parts["state_sha256"] == whole["state_sha256"]
    rows = [read_rows(tmp_path / name) for name in ("device", "host")]
    for a, b in zip(*rows, strict=True):
        assert b["loss/total"] == pytest.approx(a["loss/total"], rel=1e-5)


def test_divergence_stops_the_stage_names_the_step_and_keeps_the_checkpoint(
    tmp_path: Path, pendulum: Trajectories, half: Path
) -> None:
    run = shutil.copytree(half, tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"at step 1[1-9].*\n?.*last good checkpoint is 10"):
        train(run, pendulum, replace(STAGE, learning_rate=1e30, agc_clip=0.0))
    assert (run / "checkpoints" / "world_model" / "10").is_dir()
    assert train(run, pendulum)["last_step"] == 20


def test_updates_per_dispatch_divide_every_interval() -> None:
    assert largest_common_divisor((2500, 100, 1000, 0), limit=25) == 25
    assert largest_common_divisor((1010, 100, 1000, 0), limit=25) == 10
    assert largest_common_divisor((997, 100, 1000, 0), limit=25) == 1


def test_stages_and_seeds_have_independent_keys() -> None:
    data = [
        jax.random.key_data(key).tolist()
        for seed in (0, 1)
        for name in ("world_model", "policy")
        for key in stage_keys(seed, name)
    ]
    assert len({tuple(d) for d in data}) == 8


DEVICES = """
import json, sys
from pathlib import Path
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
sys.path[:0] = sys.argv[1:3]
import test_loop
options = {"name": "pendulum", "environment": "Pendulum-v1", "episodes": 12}
trajectories = collect(GymnasiumData(**options, cache_dir=sys.argv[3]))
test_loop.train(Path(sys.argv[4]), trajectories, loader="host", rssm=True)
import jax
print(json.dumps({"devices": len(jax.devices()), "data": trajectories.fingerprint()}))
"""


def test_results_depend_on_neither_devices_nor_loader(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    """Streamed to eight devices as resident on one, for the model with noise and a scan."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    here = Path(__file__).parent
    words = [here, here.parent, tmp_path / "datasets", tmp_path / "run"]
    command = [sys.executable, "-c", DEVICES, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    train(tmp_path / "one", pendulum, rssm=True)  # meanwhile
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    result = json.loads(output.splitlines()[-1])
    assert result == {"devices": 8, "data": pendulum.fingerprint()}
    one, eight = ([r["loss/total"] for r in read_rows(tmp_path / n)] for n in ("one", "run"))
    assert eight == pytest.approx(one, rel=1e-5)
