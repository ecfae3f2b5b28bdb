"""Judges a checkpoint of a run and rewrites the run's evaluation/, or compares several runs."""

import sys

from worldmodel.cli.eval import EvalRequest, run_evaluation


def job(asked: EvalRequest) -> int:
    """Imported here, since JAX comes with it: mistakes in the options are reported first."""
    if len(asked.runs) > 1:
        from worldmodel.evaluation.compare_runs import compare_runs

        return compare_runs(*asked)
    from worldmodel.loading import evaluate_run

    return evaluate_run(*asked.runs, asked.checkpoint, **asked.evaluation)


if __name__ == "__main__":
    sys.exit(run_evaluation(job, __doc__))
