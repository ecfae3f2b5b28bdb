"""Two real processes train as one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worldmodel.config import (
    Config,
    DistributedOptions,
    LoggingOptions,
    NoPolicy,
    StageOptions,
    TrainingOptions,
)
from worldmodel.config.rules import config_errors
from worldmodel.data.loader import make_loader
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.errors import ConfigError
from worldmodel.models.mlp import MLPOptions
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.signals import Preempted, StopRequest, handle_stop_signals
from worldmodel.training import distributed
from worldmodel.training.dispatch import Stage
from worldmodel.training.loop import Run, run_stage
from worldmodel.training.mesh import check_divisible
from worldmodel.training.metrics import WandB
from worldmodel.training.stages import build_learner

PROCESS = """
import importlib.util, json, sys
specification = importlib.util.spec_from_file_location("test_distributed", sys.argv[1])
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
module.part(**json.loads(sys.argv[2]))
"""
OPTIONS = StageOptions(steps=20, batch_size=8, window=6, learning_rate=1e-3, warmup_steps=5)


def part(join: dict, asked: bool, **work: Any) -> None:
    """What one process does; prints how it ended. With `asked`, it is told to stop at once."""
    with handle_stop_signals() as stop:  # before JAX takes SIGTERM, as train.py does
        distributed.initialize(DistributedOptions(**join))
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            _train_stage(stop, **work)
            print("finished")
        except Preempted as stopped:
            print(stopped)
    distributed.shutdown()


def _train_stage(stop: StopRequest, folder: str, loader: str, steps: int, training: dict) -> None:
    shared = TrainingOptions(
        world_model=OPTIONS, steps_per_dispatch=5, log_every=10, checkpoint_every=10, **training
    )
    data = GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=4)
    model = MLPOptions(units=16, latent_dim=8)
    config = Config("test", data=data, model=model, policy=NoPolicy(), training=shared)
    logs = collect(data)
    options = replace(OPTIONS, steps=steps)
    learner = build_learner(config, logs.spec(), "world_model")
    batches = make_loader(logs, options.batch_size, options.window, 0, loader)
    directory = RunDirectory(Path(folder), distributed.is_process_zero())
    wandb = WandB(LoggingOptions(wandb="disabled"), directory.path, {})
    run = Run(directory, shared, 0, wandb, stop, "none")
    run_stage(Stage("world_model", learner, batches, options), run)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def train(
    folder: Path,
    processes: int = 1,
    loader: str = "host",
    asked: int | None = None,
    devices: int = 1,
    steps: int = 20,
    **training: bool,
) -> list[str]:
    """Trains in so many processes, of which number `asked` is told to stop at once; returns the
    last line of each.
    """
    folder.mkdir(exist_ok=True)
    common = {
        "folder": str(folder), "delivery": loader, "steps": steps, "training": training,
    }  # fmt: skip
    if processes == devices == 1:
        part(join={}, asked=False, **common)
        return []
    address = free_address() if processes > 1 else None
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    running = []
    for process in range(processes):
        join = {"address": address, "processes": processes, "process": process, "timeout": 60}
        given = {"join": join, "asked": process == asked, **common}
        command = [sys.executable, "-c", PROCESS, __file__, json.dumps(given)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
    outputs = [process.communicate(timeout=300) for process in running]
    assert all(process.returncode == 0 for process in running), outputs
    return [output.splitlines()[-1] for output, _ in outputs]


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == list(range(10, 10 * len(rows) + 1, 10))
    return [row["loss/total"] for row in rows]


def test_two_processes_stop_as_one_and_one_goes_on(tmp_path: Path) -> None:
    """Only the second was asked to; each made half of every batch, one wrote the rows."""
    stopped = train(tmp_path / "moved", processes=2, asked=1)
    assert stopped[0] == stopped[1] and "world_model saved at step" in stopped[0]
    train(tmp_path / "moved")
    train(tmp_path / "one")
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.slow
def test_fifty_steps_are_the_same_on_any_number_of_devices_and_processes(tmp_path: Path) -> None:
    train(tmp_path / "1", steps=50)
    expected = pytest.approx(losses(tmp_path / "1"), rel=1e-5)
    for devices in (2, 4, 8):
        train(tmp_path / str(devices), devices=devices, loader="device", steps=50)
        assert losses(tmp_path / str(devices)) == expected
    for loader in ("device", "host"):
        train(tmp_path / loader, processes=2, devices=2, loader=loader, steps=50)
        assert losses(tmp_path / loader) == expected
    # Split or not, written by eight devices, continued by two processes, and by one device.
    train(tmp_path / "moved", devices=8, steps=20, fsdp_shards=4)
    train(tmp_path / "moved", devices=2, processes=2, steps=40)
    train(tmp_path / "moved", devices=1, steps=50)
    assert losses(tmp_path / "moved") == expected


@pytest.mark.slow
def test_the_whole_job_in_two_processes(launch: Callable[..., list[str]], tmp_path: Path) -> None:
    """A signal to the second ends both; started again, both end well and the first reports."""
    words = ["model=mlp", "policy=none", f"runs_dir={tmp_path}", "training.world_model.steps=1000"]
    words += [
        f"training.distributed.coordinator_address={free_address()}",
        "training.distributed.initialization_timeout=60",
    ]
    commands = [launch(*words, f"training.distributed.process_id={number}") for number in (0, 1)]

    def start() -> list[subprocess.Popen[str]]:
        return [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]

    running = start()
    metrics, deadline = tmp_path / "smoke-0" / "metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [75, 75]
    assert "the same command goes on" in outputs[0]
    running = start()
    outputs = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert "goes on from step" in outputs[0] and "in 2 processes" in outputs[0]
    assert (tmp_path / "smoke-0" / "evaluation" / "report.html").exists()


# -------------------------------------------------------------------------------- what is refused


def test_a_launcher_with_several_processes_is_recognised() -> None:
    task = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}
    assert distributed.launched_as_cluster(task)
    assert not distributed.launched_as_cluster(task | {"SLURM_NTASKS": "1"})
    assert not distributed.launched_as_cluster({"SLURM_NTASKS": "2"})  # the batch script itself
    assert distributed.launched_as_cluster({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not distributed.launched_as_cluster({"TPU_WORKER_HOSTNAMES": "a"})
    assert not distributed.launched_as_cluster({})


def test_processes_that_cannot_meet_are_refused() -> None:
    def faults(**options: object) -> list[str]:
        training = TrainingOptions(distributed=DistributedOptions(**options))
        training.world_model.steps = training.policy.steps = 10
        data = GymnasiumData(name="pendulum", environment="Pendulum-v1")
        config = Config("x", data=data, model=MLPOptions(), policy=NoPolicy(), training=training)
        return config_errors(config)

    assert not faults(coordinator_address="node1:1234", num_processes=2, process_id=1)
    assert (
        "accepts 0 to 1"
        in faults(coordinator_address="node1:1234", num_processes=2, process_id=2)[0]
    )
    assert "accepts host:port" in faults(coordinator_address="node1")[0]


def test_an_address_that_is_no_good_is_named() -> None:
    nobody = DistributedOptions(
        coordinator_address=free_address(), process_id=1, initialization_timeout=1
    )
    with pytest.raises(ConfigError, match="2 processes did not come together at localhost"):
        distributed.initialize(nobody)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        taken = DistributedOptions(
            coordinator_address=f"localhost:{other.getsockname()[1]}", process_id=0
        )
        with pytest.raises(ConfigError, match="in use"):
            distributed.initialize(taken)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    class FourDevices:
        size = 4

    check_divisible("batch_size", 8, FourDevices(), pieces=2)
    with pytest.raises(ConfigError, match="accepted are multiples of 12"):
        check_divisible("batch_size", 8, FourDevices(), pieces=3)
