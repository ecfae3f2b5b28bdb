"""Trains a world model on logged trajectories, then a policy in its imagination, then reports.

The run directory is named by what is run: the same command again resumes.
"""

import sys

from worldmodel.command_line import run_training
from worldmodel.config import Config


def job(config: Config) -> int:
    """Imported here, since JAX comes with it: mistakes in the options are reported first."""
    from worldmodel.training.run import train

    return train(config)


if __name__ == "__main__":
    sys.exit(run_training(job, __file__, __doc__))
