"""Trains a world model on logged trajectories, then a policy in its imagination, then reports.

The same command resumes a run that was stopped: the run directory is named by its options.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from worldmodel.system.signals import run_stoppable

if TYPE_CHECKING:
    from worldmodel.config import Config


def job(config: Config) -> int:
    """Imports what trains, so that errors in the options are reported before."""
    from worldmodel.loading import evaluate_run
    from worldmodel.training.run import train

    return train(config, partial(evaluate_run, allow_code=True))  # the user's own environment


def main() -> int:
    """Imports the command line, which takes time in which the process may be stopped."""
    from worldmodel.cli.train import run_training

    return run_training(job, __file__, __doc__ or "")


if __name__ == "__main__":
    sys.exit(run_stoppable(main))
