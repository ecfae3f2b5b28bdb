"""The command line of eval.py: which runs are evaluated, at which checkpoint, on what data."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel.config import MAX_COMPARED_RUNS, EvalConfig
from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, Arguments, parse_options, validate_checkpoint
from worldmodel.config.io import load_config, with_overrides
from worldmodel.config.option import format_value
from worldmodel.errors import raise_config_errors
from worldmodel.system.exit_status import run_cli


class EvalRequest(NamedTuple):
    """What eval.py is to do.

    evaluation: the evaluation options that were given; all others come from the run's own config
    output_dir: where the comparison of several runs goes
    allow_code: whether an environment of a run may be imported that is of no installed package
    """

    runs: list[str]
    checkpoint: str = "last"
    evaluation: dict[str, Any] = {}
    output_dir: str | None = None
    allow_code: bool = False


def run_evaluation(job: Callable[[EvalRequest], int | None], description: str) -> int:
    """Calls `job` with what the command line asks for; returns the exit status."""
    return run_cli(lambda: _evaluate(job, description))


def _evaluate(job: Callable[[EvalRequest], int | None], description: str) -> int:
    arguments = Arguments.parse(sys.argv[1:])
    if arguments.has(HELP_FLAGS):
        print(help_text.evaluation(description))
        return 0
    return job(parse_eval(arguments.options)) or 0


def parse_eval(words: Sequence[str]) -> EvalRequest:
    """Reads `run=... checkpoint=... evaluation.KEY=...`, or `runs=[...]`; raises ConfigError.

    `data=FORMAT` and `data.KEY=...` are short for options of `evaluation.data`.
    """
    config = EvalConfig()
    given = parse_options([_in_evaluation(word) for word in words], config)
    raise_config_errors(_run_errors(config))
    runs = config.runs or [config.run or ""]
    validate_checkpoint(runs, config.checkpoint)
    prefix = "evaluation."
    evaluation = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    for run in runs if evaluation else []:
        with_overrides(load_config(Path(run) / "config.yaml"), {"evaluation": evaluation})
    return EvalRequest(runs, config.checkpoint, evaluation, config.output_dir, config.allow_code)


def _in_evaluation(word: str) -> str:
    """Turns data=npz and data.path=... into options of `evaluation.data`."""
    word = re.sub(r"^data=(?!\{)", "evaluation.data.format=", word)
    return re.sub(r"^data(?=[.=])", "evaluation.data", word)


def _run_errors(config: EvalConfig) -> list[str]:
    if config.run is None and not config.runs:
        return ["run needs a value, such as run=runs/NAME; or runs=[runs/A,runs/B] to compare"]
    if config.run is not None and config.runs:
        return ["run, runs: give one run to evaluate it, or runs=[A,B] to compare several"]
    if config.runs and not 2 <= len(config.runs) <= MAX_COMPARED_RUNS:
        return [f"runs={format_value(config.runs)}: accepts 2 to {MAX_COMPARED_RUNS} runs"]
    if config.output_dir is not None and not config.runs:
        return [f"output_dir={config.output_dir}: is only for comparisons, runs=[A,B]"]
    return []
