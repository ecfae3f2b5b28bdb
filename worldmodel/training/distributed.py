"""Several processes that train together, on JAX's distributed runtime.

All read the data, prepare their part of every batch and take part in checkpoints; only process 0
writes files and prints. JAX detects processes that srun, mpirun, TPU hosts or Kubernetes started;
others find each other at `training.distributed.coordinator_address`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from worldmodel.config import DistributedOptions
from worldmodel.errors import ConfigError, UserError, first_line

T = TypeVar("T")

# A variable that a launcher sets in the processes it starts, and the one with their number. Under
# sbatch alone, without srun, SLURM sets the second and not the first.
LAUNCHERS = (
    ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
)


class OtherProcessError(UserError):
    """Another process has failed; its own message says why."""


def launched_as_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several.

    Kubernetes is not detected: JAX would have to ask the cluster, which needs permissions and a
    package.
    """
    counts = [int(environment.get(count, 1)) for mark, count in LAUNCHERS if mark in environment]
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return max([*counts, len(hosts)]) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def initialize(options: DistributedOptions) -> None:
    """Waits until all processes have connected. Does nothing where there is only one.

    Call it before anything uses a device. Raises ConfigError if the others do not connect.
    """
    detected = (
        options.cluster_detection == "always"
        or options.cluster_detection == "auto"
        and launched_as_cluster(os.environ)
    )
    if jax.distributed.is_initialized() or not (options.coordinator_address or detected):
        return
    address: dict[str, Any] = {}
    if options.coordinator_address:
        _check_coordinator(options.coordinator_address, options)
        address = {
            "coordinator_address": options.coordinator_address,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
        }
    try:
        jax.distributed.initialize(initialization_timeout=options.initialization_timeout, **address)
    except (RuntimeError, ValueError) as error:  # XLA's errors are RuntimeErrors
        raise ConfigError(_connection_error(options, first_line(error))) from None
    counts = multihost_utils.process_allgather(np.int32(jax.local_device_count())).tolist()
    if len(set(counts)) > 1:
        raise ConfigError(
            f"the {len(counts)} processes have {', '.join(map(str, counts))} devices; batches are "
            "split equally, so all processes need the same number"
        )


def _connection_error(options: DistributedOptions, reason: str) -> str:
    if not options.coordinator_address:
        return (
            f"training.distributed.cluster_detection={options.cluster_detection}: JAX could not "
            f"connect the processes of this job: {reason}\n"
            "Accepted instead: training.distributed.coordinator_address=HOST:PORT with "
            ".num_processes and .process_id"
        )
    return (
        f"training.distributed: {options.num_processes} processes did not connect at "
        f"{options.coordinator_address} within {options.initialization_timeout} s: {reason}\n"
        "All need the same coordinator_address and num_processes, and each its own process_id, "
        "counted from 0. Process 0 has to run on the host of the address, with that port free."
    )


def _check_coordinator(address: str, options: DistributedOptions) -> None:
    """Reports what is waited for, and checks the address: JAX's runtime ends the process with a
    stack trace where it is wrong, or where a process is missing.
    """
    print(
        f"process {options.process_id} waits for all {options.num_processes} processes at "
        f"{address}, at most {options.initialization_timeout} s",
        file=sys.stderr,
        flush=True,
    )
    host, _, port = address.rpartition(":")
    try:
        if options.process_id == 0:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        else:
            _connect(host.strip("[]"), int(port), time.monotonic() + options.initialization_timeout)
    except (OSError, OverflowError) as error:
        raise ConfigError(_connection_error(options, str(error))) from None


def _connect(host: str, port: int, deadline: float) -> None:
    while True:
        try:
            return socket.create_connection((host, port), timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def shutdown() -> None:
    """Waits for the other processes and disconnects; each then continues alone."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_process_zero() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def all_or_none(action: Callable[[], T]) -> T:
    """Returns `action()`. If it raises a UserError in any process, all of them stop."""
    return _run_in_turns(action, [True])


def process_zero_first(action: Callable[[], T]) -> T:
    """As `all_or_none`, but the others wait for process 0, and find what it has written to disk."""
    return _run_in_turns(action, [is_process_zero(), not is_process_zero()])


def _run_in_turns(action: Callable[[], T], turns: list[bool]) -> T:
    """`turns`: whether this process takes part, turn by turn; it does in one of them."""
    if jax.process_count() == 1:
        return action()
    results: list[T] = []
    for mine in turns:
        error = None
        if mine:
            try:
                results.append(action())
            except UserError as raised:
                error = raised
        failed = multihost_utils.process_allgather(np.bool_(error is not None))
        if error is not None:
            raise error
        if failed.any():
            raise OtherProcessError(f"process {int(failed.argmax())} failed; see its output")
    return results[0]
