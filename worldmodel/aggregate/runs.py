"""Evaluated runs: which agent acted, and the returns of every training seed.

Read from results.json, episodes.jsonl and spec.json alone; nothing here imports JAX.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config.option import format_value
from worldmodel.config.references import Reference
from worldmodel.config.values import flatten
from worldmodel.errors import CheckpointError, UserError, raise_config_errors
from worldmodel.runs.directory import RunDirectory
from worldmodel.status.report import runs_in

KINDS = {"policy": "policy.name", "planner": "evaluation.planner.kind"}  # "none": no agent


@dataclass(frozen=True)
class EvaluatedRun:
    """A run that was evaluated.

    options: its whole config, as words, by dotted keys
    seed, episodes: of training; of its evaluation
    dataset: the fingerprint of its dataset
    agent: policy or planner
    returns: (seeds,) the agent's mean over episodes, for each training seed; minus infinity where
        one was not finite
    reference: what normalized scores are counted by, if that was asked for
    step, steps, best: of the checkpoint evaluated; of its stage in full; whether it is there as the
    best one, and not as the last too
    """

    path: Path
    options: dict[str, str]
    seed: int
    episodes: int
    dataset: str
    environment: str
    agent: str
    returns: np.ndarray
    reference: Reference | None
    step: int
    steps: int
    best: bool

    @property
    def task(self) -> tuple[str, str]:
        """Environment and dataset."""
        return self.environment, self.dataset

    def scores(self, normalized: bool) -> np.ndarray:
        """(seeds,) returns, or 0 to 100 between the two of the reference."""
        if not normalized or self.reference is None:
            return self.returns
        return np.array([self.reference.score(x) for x in self.returns])


def find_runs(words: Sequence[str]) -> list[Path]:
    """The runs' folders that `words` name: a run, a folder of runs, or a pattern; each once.

    Raises CheckpointError where there are none.
    """
    found = [path for word in words for path in _matching(word)]
    return list({path.resolve(): path for path in found}.values())


def _matching(word: str) -> list[Path]:
    if not glob.has_magic(word):
        return runs_in([word])
    found = sorted(Path(name).parent for name in glob.glob(f"{word}/config.yaml"))
    found = [path for path in found if (path / "config.yaml").is_file()]
    if not found:
        raise CheckpointError(f"runs={word}: no run directory matches this pattern")
    return found


def read_runs(paths: Sequence[Path], agent: str | None) -> tuple[list[EvaluatedRun], list[Path]]:
    """The runs with an agent, and those without. Raises ConfigError that names all which cannot
    be read.
    """
    acting, others, faults = [], [], []
    for path in paths:
        try:
            run = read_run(path, agent)
        except UserError as error:
            faults.append(str(error))
            continue
        if run is None:
            others.append(path)
        else:
            acting.append(run)
    raise_config_errors(faults)
    return acting, others


def read_run(path: Path, agent: str | None = None) -> EvaluatedRun | None:
    """The run in a folder, with the returns of `agent` (None: its policy, or its planner if alone);
    None without an agent. Raises CheckpointError, or ConfigError for its config.yaml.
    """
    directory = RunDirectory(path)
    _need(directory, "results.json")
    return directory.results(lambda found: _finished(directory, found, agent))


def _need(directory: RunDirectory, name: str) -> None:
    if not (directory.evaluation / name).is_file():
        raise CheckpointError(
            f"{directory.path} is not evaluated: evaluation/{name} is missing; once the run is "
            f"trained, run `python eval.py run={directory.path}`"
        )


def _finished(
    directory: RunDirectory, found: dict[str, Any], agent: str | None
) -> EvaluatedRun | None:
    options = {key: _told(value) for key, value in flatten(found["config"])}
    asked = [*KINDS] if agent is None else [agent]
    acts = next((name for name in asked if name in found["returns"]), None)
    if acts is None:
        if all(options.get(KINDS[name], "none") == "none" for name in asked):
            return None
        raise CheckpointError(
            f"{directory.path}: no returns of its {' or '.join(asked)}; "
            + (
                "data.environment names no real environment"
                if found["environment"] is None
                else f"run `python eval.py run={directory.path}`"
            )
        )
    stage, step, last = found["stage"], found["step"], found.get("last")
    if not isinstance(found["environment"], str):
        raise TypeError(f"environment is {found['environment']!r}")
    return EvaluatedRun(
        path=directory.path,
        options=options,
        seed=int(options["seed"]),
        episodes=int(options["evaluation.episodes"]),
        dataset=directory.fingerprint(),
        environment=found["environment"],
        agent=acts,
        returns=_means_of_seeds(directory, acts, _return(found["returns"][acts]["value"])),
        reference=_reference(found.get("reference")),
        step=int(step),
        steps=int(options[f"training.{'world_model' if stage == 'joint' else stage}.steps"]),
        best=last is not None and (last["stage"], last["step"]) != (stage, step),
    )


def _told(value: Any) -> str:
    return repr(value) if isinstance(value, float) else format_value(value)


def _means_of_seeds(directory: RunDirectory, agent: str, mean: float) -> np.ndarray:
    """(seeds,); their mean is the one that results.json has."""
    _need(directory, "episodes.jsonl")

    def returns_by_seed(rows: list[Any]) -> dict[int, list[float]]:
        earned: dict[int, list[float]] = {}
        for row in rows:
            if row["agent"] == agent:
                earned.setdefault(int(row["training_seed"]), []).append(_return(row["return"]))
        return earned

    earned = directory.episodes(returns_by_seed)
    means = np.array([np.mean(earned[seed]) for seed in sorted(earned)])
    if not earned or not np.isclose(means.mean(), mean):
        raise CheckpointError(
            f"{directory.evaluation}: episodes.jsonl and results.json are of different "
            f"evaluations; run `python eval.py run={directory.path}`"
        )
    return means


def _return(value: Any) -> float:
    """A return that is not finite was written as null, and is worse than all others."""
    if value is None:
        return -np.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a return is {value!r}")
    return float(value) if math.isfinite(value) else -np.inf


def _reference(saved: dict[str, Any] | None) -> Reference | None:
    if saved is None:
        return None
    reference = Reference(**saved)
    if not -math.inf < reference.min < reference.max < math.inf:
        raise ValueError(f"the reference returns are {reference.min} and {reference.max}")
    return reference
