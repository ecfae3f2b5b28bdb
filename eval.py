"""Judges a checkpoint of a run and rewrites the run's evaluation/."""

import sys
from typing import Any

from worldmodel.command_line import run_evaluation


def job(run: str, checkpoint: str, overrides: dict[str, Any]) -> int:
    """Imported here, since JAX comes with it: mistakes in the options are reported first."""
    from worldmodel.evaluation.evaluator import evaluate_run

    return evaluate_run(run, checkpoint, overrides)


if __name__ == "__main__":
    sys.exit(run_evaluation(job, __doc__))
