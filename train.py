"""Trains a world model on logged trajectories, then a policy in its imagination, then reports.

The run directory is named by what is run: the same command again resumes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from worldmodel.system.signals import run_stoppable

if TYPE_CHECKING:
    from worldmodel.config import Config


def job(config: Config) -> int:
    """Imported here, since JAX comes with it: mistakes in the options are reported first."""
    from worldmodel.loading import evaluate_run
    from worldmodel.training.run import train

    return train(config, evaluate_run)


def main() -> int:
    """Imported here, since it takes time, in which the run may be asked to stop."""
    from worldmodel.cli.train import run_training

    return run_training(job, __file__, __doc__)


if __name__ == "__main__":
    sys.exit(run_stoppable(main))
