"""Two real processes train together."""

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
from small_runs import (
    STAGE,
    linear_plan,
    random_trajectories,
    read_rows,
    small_config,
    small_plan,
    train_stage,
)

from worldmodel.config import Config, DistributedOptions, NoPolicy, TrainingOptions
from worldmodel.config.rules import config_errors
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.errors import ConfigError
from worldmodel.models.mlp import MLPOptions
from worldmodel.system.signals import Preempted, handle_stop_signals
from worldmodel.training import distributed
from worldmodel.training.mesh import check_divisible

PROCESS = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import test_distributed
test_distributed.run_process(**json.loads(sys.argv[3]))
"""


def run_process(connection: dict, stop: bool, **work: Any) -> None:
    """What one process does; prints how it ended. With `stop`, it is requested to stop at once."""
    with handle_stop_signals():  # before JAX handles SIGTERM, as in train.py
        distributed.initialize(DistributedOptions(**connection))
        if stop:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            _train_stage(**work)
            print("finished")
        except Preempted as reason:
            print(reason)
    distributed.shutdown()


def _train_stage(
    folder: str, loader: str, steps: int, linear: bool = False, fsdp_shards: int = 1
) -> None:
    if linear:
        trajectories = random_trajectories()
        plan = linear_plan(steps, steps_per_dispatch=5, log_every=100, checkpoint_every=500)
    else:
        data = GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=4)
        trajectories = collect(data)
        plan = small_plan(trajectories, small_config(stage=replace(STAGE, steps=steps)))
    train_stage(
        replace(plan, loader=loader),
        Path(folder),
        trajectories,
        is_writer=distributed.is_process_zero(),
        fsdp_shards=fsdp_shards,
    )


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


def train(
    folder: Path,
    processes: int = 1,
    loader: str = "host",
    stopped: int | None = None,
    devices: int = 1,
    steps: int = 20,
    **training: int,
) -> list[str]:
    """Trains in so many processes, of which number `stopped` is requested to stop at once; returns
    the last line of each.
    """
    folder.mkdir(exist_ok=True)
    work = {"folder": str(folder), "loader": loader, "steps": steps, **training}
    if processes == devices == 1:
        run_process(connection={}, stop=False, **work)
        return []
    address = free_address() if processes > 1 else None
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    here, running = Path(__file__).parent, []
    for process in range(processes):
        connection = {
            "coordinator_address": address,
            "num_processes": processes,
            "process_id": process,
            "initialization_timeout": 60,
        }
        given = json.dumps({"connection": connection, "stop": process == stopped, **work})
        command = [sys.executable, "-c", PROCESS, str(here), str(here.parent), given]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **pipes))
    outputs = [process.communicate(timeout=300) for process in running]
    assert all(process.returncode == 0 for process in running), outputs
    return [output.splitlines()[-1] for output, _ in outputs]


def losses(folder: Path, every: int = 10) -> list[float]:
    rows = read_rows(folder)
    assert [row["step"] for row in rows] == list(range(every, every * len(rows) + 1, every))
    return [row["loss/total"] for row in rows]


def test_two_processes_stop_together_and_one_process_resumes(tmp_path: Path) -> None:
    """Only the second is requested to stop; each makes half of every batch, one writes the rows.

    There are far more calls to the device than JAX needs to agree on the one to stop after.
    """
    steps = 1000
    stopped = train(tmp_path / "moved", processes=2, stopped=1, linear=True, steps=steps)
    assert stopped[0] == stopped[1] and "world_model saved at step" in stopped[0]
    train(tmp_path / "moved", linear=True, steps=steps)
    train(tmp_path / "one", linear=True, steps=steps)
    moved, one = (losses(tmp_path / name, every=100) for name in ("moved", "one"))
    assert moved == pytest.approx(one, rel=1e-5)


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
    # Sharded or not, written by eight devices, continued by two processes, and by one device.
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
    assert "run the same command to resume" in outputs[0]
    running = start()
    outputs = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert "resuming from step" in outputs[0] and "in 2 processes" in outputs[0]
    assert (tmp_path / "smoke-0" / "evaluation" / "report.html").exists()


# ------------------------------------------------------------------------------------ invalid input


def test_a_launcher_with_several_processes_is_detected() -> None:
    task = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}
    assert distributed.launched_as_cluster(task)
    assert not distributed.launched_as_cluster(task | {"SLURM_NTASKS": "1"})
    assert not distributed.launched_as_cluster({"SLURM_NTASKS": "2"})  # the batch script itself
    assert distributed.launched_as_cluster({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not distributed.launched_as_cluster({"TPU_WORKER_HOSTNAMES": "a"})
    assert not distributed.launched_as_cluster({})


def test_processes_that_cannot_connect_are_refused() -> None:
    def errors(**options: Any) -> list[str]:
        training = TrainingOptions(distributed=DistributedOptions(**options))
        training.world_model.steps = training.policy.steps = 10
        data = GymnasiumData(name="pendulum", environment="Pendulum-v1")
        config = Config("x", data=data, model=MLPOptions(), policy=NoPolicy(), training=training)
        return config_errors(config)

    address = "node1:1234"
    assert not errors(coordinator_address=address, num_processes=2, process_id=1)
    (error,) = errors(coordinator_address=address, num_processes=2, process_id=2)
    assert "accepts 0 to 1" in error
    assert "accepts host:port" in errors(coordinator_address="node1")[0]


def test_an_address_that_cannot_be_used_is_named() -> None:
    nobody = DistributedOptions(
        coordinator_address=free_address(), process_id=1, initialization_timeout=1
    )
    with pytest.raises(ConfigError, match="2 processes did not connect at localhost"):
        distributed.initialize(nobody)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        occupied = DistributedOptions(
            coordinator_address=f"localhost:{other.getsockname()[1]}", process_id=0
        )
        with pytest.raises(ConfigError, match="in use"):
            distributed.initialize(occupied)


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    mesh = type("FourDevices", (), {"size": 4})()
    check_divisible("batch_size", 8, mesh, microbatches=2)
    with pytest.raises(ConfigError, match="accepted: multiples of 12"):
        check_divisible("batch_size", 8, mesh, microbatches=3)
