"""Several processes that train as one, on JAX's own runtime.

All read the logs, make their part of every batch and take part in checkpoints; only the first
writes files and speaks. Where srun, mpirun, TPU hosts or Kubernetes started them, JAX finds out who
takes part; elsewhere `training.distributed.coordinator_address` says it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from worldmodel.config import DistributedOptions
from worldmodel.errors import ConfigError, UserError, first_line

T = TypeVar("T")

# A variable that a launcher sets in the processes it starts, and the one with their number. Below
# sbatch alone, without srun, SLURM sets the second and not the first.
LAUNCHERS = (
    ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE"),
)


class OtherProcessError(UserError):
    """Another of the processes could not go on; its own message says why."""


def launched_as_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as one of several.

    Kubernetes isn't among them: there JAX has to ask the cluster, which needs rights and a package.
    """
    counts = [int(environment.get(count, 1)) for mark, count in LAUNCHERS if mark in environment]
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return max([*counts, len(hosts)]) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment


def initialize(options: DistributedOptions) -> None:
    """Waits until all processes are there. Nothing happens where there is only one.

    To be called before anything touches a device. Raises ConfigError if the others do not come.
    """
    found = (
        options.cluster_detection == "always"
        or options.cluster_detection == "auto"
        and launched_as_cluster(os.environ)
    )
    if jax.distributed.is_initialized() or not (options.coordinator_address or found):
        return
    given = {}
    if options.coordinator_address:
        _check_coordinator(options)
        given = {
            "coordinator_address": options.coordinator_address,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
        }
    try:
        jax.distributed.initialize(initialization_timeout=options.initialization_timeout, **given)
    except (RuntimeError, ValueError) as error:  # XLA's errors are RuntimeErrors
        raise ConfigError(_not_joined(options, first_line(error))) from None
    counts = multihost_utils.process_allgather(np.int32(jax.local_device_count())).tolist()
    if len(set(counts)) > 1:
        raise ConfigError(
            f"the {len(counts)} processes have {', '.join(map(str, counts))} devices; each part of "
            "a batch is equally large, so all need as many"
        )


def _not_joined(options: DistributedOptions, reason: str) -> str:
    if not options.coordinator_address:
        return (
            f"training.distributed.cluster_detection={options.cluster_detection}: JAX could not bring the processes of "
            f"this job together: {reason}\n"
            "Accepted instead: training.distributed.coordinator_address=HOST:PORT with .num_processes and .process_id"
        )
    return (
        f"training.distributed: {options.num_processes} processes did not come together at "
        f"{options.coordinator_address} within {options.initialization_timeout} s: {reason}\n"
        "All need the same address and processes, each a process number of its own from 0 on; "
        "process 0 runs where the address points, and its port is free."
    )


def _check_coordinator(options: DistributedOptions) -> None:
    """Says who is waited for, and looks whether the address is good: JAX's runtime ends the process
    with a stack of its own where it's not, or where somebody stays away.
    """
    print(
        f"process {options.process_id} waits for all {options.num_processes} at {options.coordinator_address}, "
        f"{options.initialization_timeout} s at most",
        file=sys.stderr,
        flush=True,
    )
    host, _, port = options.coordinator_address.rpartition(":")
    try:
        if options.process_id == 0:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", int(port)))
        else:
            _connect(host.strip("[]"), int(port), time.monotonic() + options.initialization_timeout)
    except (OSError, OverflowError) as error:
        raise ConfigError(_not_joined(options, str(error))) from None


def _connect(host: str, port: int, deadline: float) -> None:
    while True:
        try:
            return socket.create_connection((host, port), timeout=5).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def shutdown() -> None:
    """Waits for the others and ends the connection; what follows, each process does alone."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_process_zero() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def all_or_none(action: Callable[[], T]) -> T:
    """What `action` gives. If it raises a UserError at any process, all of them end."""
    return _all(action, [True])


def process_zero_first(action: Callable[[], T]) -> T:
    """The same, but first at the first process: what it leaves on disk is there for the others."""
    return _all(action, [is_process_zero(), not is_process_zero()])


def _all(action: Callable[[], T], turns: list[bool]) -> T:
    if jax.process_count() == 1:
        return action()
    for mine in turns:
        error = None
        if mine:
            try:
                result = action()
            except UserError as raised:
                error = raised
        failed = multihost_utils.process_allgather(np.bool_(error is not None))
        if error is not None:
            raise error
        if failed.any():
            raise OtherProcessError(f"process {int(failed.argmax())} could not go on; see there")
    return result
