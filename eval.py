"""Evaluates a checkpoint of a run and rewrites the run's evaluation/, or compares several runs."""

import sys

from worldmodel.cli.eval import EvalRequest, run_evaluation


def job(request: EvalRequest) -> int:
    """Imports what evaluates, so that errors in the options are reported before."""
    if len(request.runs) > 1:
        from worldmodel.evaluation.compare_runs import compare_runs

        return compare_runs(
            request.runs,
            request.checkpoint,
            request.evaluation,
            request.output_dir,
            request.allow_code,
        )
    from worldmodel.loading import evaluate_run

    return evaluate_run(
        request.runs[0],
        request.checkpoint,
        allow_code=request.allow_code,
        **request.evaluation,
    )


if __name__ == "__main__":
    sys.exit(run_evaluation(job, __doc__ or ""))
