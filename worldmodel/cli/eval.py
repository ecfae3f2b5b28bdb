"""The command line of eval.py: which runs are judged, by which checkpoint, on what data.

Nothing here imports JAX: a mistake is reported before anything slow starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override

from worldmodel.config import MAX_COMPARED_RUNS, EvalConfig
from worldmodel.config.arguments import (
    HELP_FLAGS,
    Arguments,
    override_error,
    parse_overrides,
    read_values,
    validate_checkpoint,
)
from worldmodel.config.evaluation_data import FORMAT, data_errors
from worldmodel.config.io import assign, flatten, load_config
from worldmodel.config.values import iter_options, raise_if_invalid
from worldmodel.system.exit_status import run_cli


class EvalRequest(NamedTuple):
    """What eval.py is asked for. `evaluation` holds the options that were given: all others come
    from the run's own config. Several runs are compared, and that goes to `folder`.
    """

    runs: list[str]
    checkpoint: str = "last"
    evaluation: dict[str, Any] = {}
    folder: str | None = None


def run_evaluation(job: Callable[[EvalRequest], int | None], description: str) -> int:
    """Calls `job` with what the command line asks for; returns the exit status."""
    return run_cli(lambda: _evaluate(job, description))


def _evaluate(job: Callable[[EvalRequest], int | None], description: str) -> int:
    arguments = Arguments.parse(sys.argv[1:], flags=HELP_FLAGS)
    if arguments.has(HELP_FLAGS):
        from worldmodel.config import help as help_text

        print(help_text.evaluation(description))
        return 0
    return job(parse_eval(arguments.words)) or 0


def parse_eval(words: Sequence[str]) -> EvalRequest:
    """Reads `run=... checkpoint=... evaluation.KEY=... data.KEY=...`, or `runs=[...]`; raises
    ConfigError. `data=KIND` and `data.KEY` are those of `evaluation.data`.
    """
    config = EvalConfig()
    known = {option.key: option for option, _ in iter_options(config)}
    overrides = parse_overrides(words)
    data, faults = _read_data([o for o in overrides if _is_data(o)])
    given, more = read_values([o for o in overrides if not _is_data(o)], known)
    faults += more
    for key, value in given.items():
        assign(config, key, value)
    faults += [fault for option, value in iter_options(config) if (fault := option.error_in(value))]
    raise_if_invalid(faults)
    raise_if_invalid(_runs_faults(config))
    runs = config.runs or [config.run]
    validate_checkpoint(runs, config.checkpoint)
    prefix = "evaluation."
    evaluation = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    if data:
        for run in runs:
            raise_if_invalid(data_errors(load_config(Path(run) / "config.yaml").data, data, DATA))
        evaluation["data"] = data
    return EvalRequest(runs, config.checkpoint, evaluation, config.folder)


def _runs_faults(config: EvalConfig) -> list[str]:
    if config.run is None and not config.runs:
        return ["run needs a value, such as run=runs/NAME; or runs=[runs/A,runs/B] to compare"]
    if config.run is not None and config.runs:
        return ["run, runs: give one run to judge it, or runs=[A,B] to compare several"]
    if config.runs and not 2 <= len(config.runs) <= MAX_COMPARED_RUNS:
        return [f"runs={config.runs}: accepts 2 to {MAX_COMPARED_RUNS} runs"]
    if config.folder is not None and not config.runs:
        return [f"folder={config.folder}: only a comparison (runs=[A,B]) has one"]
    return []


DATA = "data."  # what options of the data to judge on begin with


def _is_data(override: Override) -> bool:
    return override.key_or_group == "data" or override.key_or_group.startswith(DATA)


def _read_data(overrides: Sequence[Override]) -> tuple[dict[str, Any], list[str]]:
    """The options of `evaluation.data` that `data=KIND` and `data.KEY=...` say, and all faults."""
    given: dict[str, Any] = {}
    faults = []
    for override in overrides:
        if fault := override_error(override):
            faults.append(fault)
        elif override.key_or_group == "data" and not isinstance(override.value(), dict):
            given[FORMAT] = override.value()
        else:
            values = flatten({override.key_or_group: override.value()})
            given |= {key.removeprefix(DATA): value for key, value in values}
    return given, faults
