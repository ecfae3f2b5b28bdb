"""Sweeps (--multirun): one job for every value, run by Hydra's sweeper and launcher plugins.

What is wrong with any job is told before the first one starts. A job gives the sweeper the return
of its policy in the real environment: what an optimising one looks for the highest of. At the end
stands a table of all jobs.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import CompactHydraException
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
from worldmodel.errors import ConfigError, raise_config_errors
from worldmodel.system.exit_status import USER_ERROR, run_cli
from worldmodel.system.signals import PREEMPTED

MAX_JOBS_CHECKED = 100  # before the first one starts; each is checked again when it starts
BASIC_SWEEPER = "basic"  # Hydra's own sweeper: it goes through all values, and looks for nothing


class JobFailed(CompactHydraException):
    """A job of a sweep ended with a status other than 0; Hydra prints this as one line."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return self.args[0]


class SweepPlan(NamedTuple):
    """words: what Hydra is told, with what the files sweep over; first: the config of a job."""

    words: list[str]
    first: Config


def check_sweep(configs: Path, words: Sequence[str]) -> SweepPlan:
    """Raises ConfigError for the faults of a sweep's jobs. Values given as `words` take the place
    of those that the files sweep over.
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
    # Intervals have no list of values: only an optimising sweeper plugin can choose from them.
    if files.sweeper == BASIC_SWEEPER and any(o.is_interval_sweep() for o in overrides):
        raise ConfigError("interval(...) needs a sweeper plugin: hydra/sweeper=NAME")
    first = _checked(configs, overrides)
    if files.sweeper != BASIC_SWEEPER and not _is_judged(first):
        raise ConfigError(
            f"hydra/sweeper={files.sweeper} looks for the highest return of a policy in the real "
            "environment: it needs policy=NAME, and logs with data.environment=ID"
        )
    # They are among the words now; Hydra would go through them once more.
    return SweepPlan([*words, *["hydra.sweeper.params=null"] * bool(files.sweep_params)], first)


def _checked(configs: Path, overrides: list[Override]) -> Config:
    """Checks the jobs that go through all values of `overrides`; returns the first one's config."""
    configurations, faults, names = [], [], {}
    jobs = itertools.product(*(_elements(configs, o) for o in overrides))
    for job in itertools.islice(jobs, MAX_JOBS_CHECKED):
        try:
            config = build_config(configs, parse_overrides(job))
        except ConfigError as error:
            faults += str(error).splitlines()
            continue
        configurations.append(config)
        if (name := config.name) in names:
            faults.append(
                f"name={name}: shared by jobs {' '.join(names[name])} and {' '.join(job)}"
            )
        names[name] = job
    raise_config_errors(faults)
    return configurations[0]


def _elements(configs: Path, override: Override) -> list[str]:
    """The single overrides that a sweep over this one goes through; of an interval its ends."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        values = [sweep.start, sweep.end]
    elif isinstance(sweep, Glob):
        values = sweep.filter(choices_of(configs, override.key_or_group))
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError(f"{override.input_line}: matches nothing")
    return [f"{override.key_or_group}={value}" for value in values]


def _is_judged(config: Config) -> bool:
    return config.policy.name != "none" and config.data.environment is not None


def run_sweep(job: Callable[[Config], int | None], configs: Path, words: Sequence[str]) -> int:
    """Hands the sweep to Hydra, and shows the table of its jobs; returns the exit status."""
    plan = check_sweep(configs, words)
    folder = Path(plan.first.runs_dir) / ".multirun"  # Hydra's, too: configs/config.yaml

    def task(tree: DictConfig) -> float | None:
        config = to_config(tree)
        status = run_cli(lambda: job(config))
        if status == PREEMPTED:  # the machine goes away: start no further job
            _queue_again()
            sys.exit(status)
        if status:
            raise JobFailed(f"{config.name}: exit status {status}", status)
        earned = _earned(config)
        if earned is None:
            return None
        settings = list(HydraConfig.get().overrides.task)
        append_result(folder, JobResult(config.name, settings, earned))
        return earned["value"]

    clear_results(folder)
    status = _run(task, configs, plan.words)
    if table := summarize(folder, plan.first.evaluation):
        print(table)
    return status


def _queue_again() -> None:
    """In a job of submitit's, hands the signal on that the run took to save its state: submitit
    answers it by putting the job into the queue once more, and ends the process.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        signal.raise_signal(signal.Signals[f"SIG{name}"])


def _run(task: Callable[[DictConfig], float | None], configs: Path, words: list[str]) -> int:
    import hydra

    register(configs)
    sys.argv[1:] = ["--multirun", *words]
    main = hydra.main(config_path=str(configs), config_name="config", version_base=HYDRA_VERSION)
    try:
        main(task)()
    except SystemExit as ending:
        failure = ending.__context__  # Hydra has shown it, and made every status 1
        if isinstance(failure, JobFailed):
            return failure.status
        return USER_ERROR if isinstance(failure, CompactHydraException) else int(ending.code or 0)
    return 0


def _earned(config: Config) -> dict | None:
    """What evaluation has found of the policy's return, if it was judged at all."""
    results = Path(config.runs_dir) / config.name / "evaluation" / "results.json"
    if not _is_judged(config) or not results.exists():
        return None
    return json.loads(results.read_text())["returns"]["policy"]
