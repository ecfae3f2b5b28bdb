"""Sweeps (--multirun): one job per combination of values, run by Hydra's sweepers and launchers.

All jobs are validated before the first one starts. Each returns to the sweeper the return of its
policy in the real environment, which optimizing sweepers maximize. A table of all jobs ends the
sweep.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from omegaconf import DictConfig

from worldmodel.cli.sweep_summary import JobResult, append_result, clear_results, summarize
from worldmodel.config import Config
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import (
    HYDRA_VERSION,
    build_config,
    choices_of,
    compose_files,
    register,
    to_config,
)
from worldmodel.errors import ConfigError, UserError, first_line, raise_config_errors
from worldmodel.system.exit_status import run_cli
from worldmodel.system.signals import PREEMPTED
from worldmodel.system.storage import disk_error

MAX_JOBS_CHECKED = 100  # before the first one starts; each is validated again when it starts
MAX_VALUES = 10_000  # of one option; Hydra lists all jobs before the first
BASIC_SWEEPER = "basic"  # Hydra's own sweeper: a grid search


class JobFailed(Exception):
    """A job of a sweep had an exit status other than 0."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return self.args[0]


class SweepPlan(NamedTuple):
    """A validated sweep.

    words: the command line for Hydra, with the values that the files sweep over
    first: the config of the first job
    """

    words: list[str]
    first: Config


def plan_sweep(configs: Path, words: Sequence[str]) -> SweepPlan:
    """Validates the jobs of a sweep. Raises ConfigError that lists the errors of all of them.

    Values given as `words` replace those that the files sweep over.
    """
    given = parse_overrides(words)
    single = [o for o in given if not o.is_sweep_override()]
    hydra = [o for o in single if o.is_hydra_override()]
    files = compose_files(configs, [o for o in single if o not in hydra], hydra)
    keys = {o.key_or_group for o in given}
    words = [
        *words,
        *(f"{k}={values}" for k, values in files.sweep_params.items() if k not in keys),
    ]

    overrides = [o for o in parse_overrides(words) if not o.is_hydra_override()]
    # An interval has no list of values: only an optimizing sweeper can sample from it.
    if files.sweeper == BASIC_SWEEPER and any(o.is_interval_sweep() for o in overrides):
        raise ConfigError(
            "interval(...): needs an optimizing sweeper, such as hydra/sweeper=optuna"
        )
    first = _checked(configs, overrides)
    if files.sweeper != BASIC_SWEEPER and not _has_return(first):
        raise ConfigError(
            f"hydra/sweeper={files.sweeper}: maximizes the return of the policy in the real "
            "environment; needs a policy other than none, and data.environment=ID"
        )
    # Among the words now; without this, Hydra would sweep over them a second time.
    return SweepPlan([*words, *["hydra.sweeper.params=null"] * bool(files.sweep_params)], first)


def _checked(configs: Path, overrides: list[Override]) -> Config:
    """Validates the jobs of all combinations of `overrides`; returns the first one's config."""
    configurations, errors, names = [], [], {}
    jobs = itertools.product(*(_elements(configs, o) for o in overrides))
    for job in itertools.islice(jobs, MAX_JOBS_CHECKED):
        try:
            config = build_config(configs, parse_overrides(job))
        except ConfigError as error:
            errors += str(error).splitlines()
            continue
        configurations.append(config)
        if (name := config.name) in names:
            errors.append(
                f"name={name}: jobs {' '.join(names[name])} and {' '.join(job)} have the same "
                "name; add what differs, such as name='${model.name}-${seed}'"
            )
        names[name] = job
    raise_config_errors(errors)
    return configurations[0]


def _elements(configs: Path, override: Override) -> list[str]:
    """Returns the single overrides that this one sweeps over; for an interval, its ends."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        values = [sweep.start, sweep.end]
    elif isinstance(sweep, Glob):
        values = sweep.filter(choices_of(configs, override.key_or_group))
    else:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_VALUES + 1))
        if len(values) > MAX_VALUES:
            raise ConfigError(f"{override.input_line}: accepts at most {MAX_VALUES} values")
    if not values:
        raise ConfigError(f"{override.input_line}: matches no choice")
    return [f"{override.key_or_group}={value}" for value in values]


def _has_return(config: Config) -> bool:
    return config.policy.name != "none" and config.data.environment is not None


def run_sweep(job: Callable[[Config], int | None], configs: Path, words: Sequence[str]) -> int:
    """Runs the sweep with Hydra and prints the table of its jobs; returns the exit status."""
    plan = plan_sweep(configs, words)
    folder = Path(plan.first.runs_dir) / ".multirun"  # also in configs/config.yaml, for Hydra

    def task(tree: DictConfig) -> float | None:
        config = to_config(tree)
        try:
            status = run_cli(lambda: job(config))
        except Exception as error:
            traceback.print_exc()
            raise JobFailed(f"{config.name}: {first_line(error)}", 1) from error
        if status == PREEMPTED:  # start no further job
            _requeue()
            sys.exit(status)
        if status:
            raise JobFailed(f"{config.name}: exit status {status}", status)
        policy_return = _policy_return(config)
        if policy_return is None:
            return None
        overrides = list(HydraConfig.get().overrides.task)
        append_result(folder, JobResult(config.name, overrides, policy_return))
        return policy_return["value"]

    clear_results(folder)
    status = _run(task, configs, plan.words)
    if table := summarize(folder, plan.first.evaluation):
        print(table)
    return status


def _requeue() -> None:
    """In a job of submitit, raises again the signal on which the run saved its state: submitit then
    requeues the job and ends the process.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        signal.raise_signal(signal.Signals[f"SIG{name}"])


def _run(task: Callable[[DictConfig], float | None], configs: Path, words: list[str]) -> int:
    import hydra

    register(configs)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raises errors, which it otherwise prints before it exits
    sys.argv[1:] = ["--multirun", *words]
    main = hydra.main(config_path=str(configs), config_name="config", version_base=HYDRA_VERSION)
    try:
        main(task)()
    except SystemExit as ending:
        return int(ending.code or 0)
    except JobFailed as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.status
    except Exception as error:  # of Hydra or a plugin, such as for a value of its own options
        if isinstance(error, UserError) or disk_error(error):
            raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"the sweep cannot be run by Hydra: {reason}") from error
    return 0


def _policy_return(config: Config) -> dict | None:
    """Returns the policy's return as results.json has it; None if it was not evaluated."""
    results = Path(config.runs_dir) / config.name / "evaluation" / "results.json"
    if not _has_return(config) or not results.exists():
        return None
    from worldmodel.evaluation.statistics import Estimate

    saved = json.loads(results.read_text())
    return Estimate.from_json(saved["returns"]["policy"], saved.get("methods", ())).to_json()
