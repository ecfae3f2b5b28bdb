"""Rewards and ends of OGBench's single tasks, which are not in its files: its package computes them
from the states of the simulator.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from worldmodel.errors import DataError, first_line

SIMULATOR = ("qpos", "button_states")  # what rewards are computed from, of a file
INSTALL = "pip install ogbench"


def relabelled(
    task: str, terminals: np.ndarray, simulator: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns `rewards`, `masks` (0: the task is done), `valids` (0: a row holds the final
    observation alone) and `terminals`, (N,) each.

    Args:
        task: such as cube-single-play-singletask-task2-v0
        terminals: (N,) as in the file, where they mark the final observations
        simulator: those of `SIMULATOR` that the file holds, (N, ...)

    Raises:
        DataError: no package, no such task, or a file without what the task needs
    """
    try:
        import ogbench  # pyright: ignore[reportMissingImports]
        from ogbench.relabel_utils import relabel_dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(f"data.ogbench_task={task} needs the package ogbench: {INSTALL}") from error
    computed = dict(simulator)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            environment = ogbench.make_env_and_datasets(task, env_only=True)
            try:
                relabel_dataset(environment.spec.id, environment, computed)
            finally:
                environment.close()
    except Exception as error:  # gymnasium and the environments raise any exception
        raise DataError(
            f"data.ogbench_task={task}: OGBench cannot compute its rewards ({first_line(error)}); "
            "accepted: a single task of the file's environment, such as "
            f"cube-single-play-singletask-task2-v0; the file has {', '.join(simulator) or 'none'} "
            f"of {', '.join(SIMULATOR)}"
        ) from error
    final = np.asarray(terminals).reshape(-1) != 0
    return {
        "rewards": computed["rewards"],
        "masks": computed["masks"],
        "valids": (~final).astype(np.float32),
        "terminals": (final | np.roll(final, -1)).astype(np.float32),
    }
