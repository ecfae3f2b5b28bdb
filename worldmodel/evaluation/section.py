"""The protocol of a section: one question of an evaluation, and everything reported about it.

A section is a class in a file of `sections/`, or in another package, registered by one statement:

    @register("section", "name", order=50)
    class Name(Section): ...

results.json, results.csv, results.md, report.html, the summary in the terminal and the comparison
of several runs are loops over the sections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from worldmodel import planning
from worldmodel.config import EvaluationOptions, registry
from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.config.references import Reference, resolve_reference
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.html import Card
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.sampled_rollouts import OpenLoopEvaluator
from worldmodel.evaluation.statistics import Bootstrap, Estimate, Measured
from worldmodel.models.interface import WorldModel
from worldmodel.planning import Agent

LESS, MORE = "less", "more"  # what is better


@dataclass(frozen=True)
class Context:
    """What an evaluation is given: the models of one checkpoint, data, environment and options.

    held_out: the episodes that predictions are evaluated on
    dataset: all episodes of the dataset, training and held out
    environment: the real environment, None where there is none
    value: a critic's value function, for the planner
    other_seeds: the agents of the run's other training seeds
    checkpoint_policies: earlier policies that act on the same features, by name
    """

    model: WorldModel
    policy: nnx.Module | None
    spec: DataSpec
    held_out: Trajectories
    dataset: Trajectories
    environment: str | EnvironmentId | None
    options: EvaluationOptions
    value: planning.Value | None = None
    other_seeds: Sequence[Agent] = ()
    checkpoint_policies: Mapping[str, nnx.Module] = field(default_factory=dict)

    @property
    def agents(self) -> list[Agent]:
        """One for each training seed."""
        return [Agent(self.model, self.policy, self.value), *self.other_seeds]

    @property
    def key(self) -> jax.Array:
        return jax.random.key(self.options.seed)

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.options.resamples, self.options.confidence, self.options.seed)

    @property
    def reference(self) -> Reference | None:
        """What normalized scores are counted by."""
        return resolve_reference(self.options)

    @cached_property
    def open_loop(self) -> OpenLoopEvaluator:
        """Open-loop rollouts from the starts in `held_out`, computed once for all sections."""
        return OpenLoopEvaluator(self.model, self.spec, self.held_out, self.options, self.key)


@dataclass(frozen=True)
class Measure:
    """One measure by which runs are compared, row by row: a horizon, an observation or an agent.

    key: its place in comparison.json, such as `prediction.position`
    subject: what it measures, as a sentence begins
    title: of its table and plot
    unit: of its axis
    rows: by row; runs are resampled together where they are `Measured`
    better: whether less or more is better, None where neither is
    of: what rows are; "steps" for horizons
    baseline: by row, a reference that no run should be worse than
    """

    key: str
    subject: str
    title: str
    unit: str
    rows: Mapping[str, Measured | Estimate]
    better: str | None = LESS
    of: str = "steps"
    baseline: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Section:
    """The results of one question of an evaluation, and how they are reported.

    A subclass holds its results in fields. Everything but `run` has a default.

    title: its heading in report.html and results.md
    explanation: how to read its tables and figures
    absent: the keys of results.json that it fills, with their values where it does not apply
    comparable: whether it has `measures`
    needs_dynamics: whether it applies only to a model with dynamics
    caveats: of these results; the default of `notes`
    compared: the default of `measures`
    """

    title: ClassVar[str] = ""
    absent: ClassVar[Mapping[str, Any]] = {}
    comparable: ClassVar[bool] = False
    needs_dynamics: ClassVar[bool] = False

    caveats: Sequence[str] = ()
    compared: Sequence[Measure] = ()

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        """Whether to run, or the reason why not, which is reported. All sections are asked before
        the first one runs. Raises ConfigError for an invalid environment.
        """
        return context.model.has_dynamics or not cls.needs_dynamics

    @classmethod
    def run(cls, context: Context) -> Self:
        raise NotImplementedError

    def numbers(self) -> dict[str, Any]:
        """Its part of results.json: nested mappings, dataclasses and lists with `Estimate`s."""
        return {}

    def tables(self) -> list[ResultTable]:
        return []

    def figures(self) -> list[str]:
        """HTML of `figures.figure`."""
        return []

    def sentences(self) -> list[str]:
        """Its results in plain sentences."""
        return []

    def highlights(self) -> list[str]:
        """Its main numbers in a few words, for the last checkpoint next to the best one."""
        return []

    @property
    def explanation(self) -> str:
        return ""

    def notes(self) -> list[str]:
        """Caveats of these results."""
        return list(self.caveats)

    def cards(self) -> list[Card]:
        return []

    def episodes(self) -> list[dict[str, Any]]:
        """Rows of episodes.jsonl: the episodes played in the real environment."""
        return []

    def measures(self) -> list[Measure]:
        """What several runs, evaluated at the same starts and seeds, are compared by."""
        return list(self.compared)


def sections() -> dict[str, type[Section]]:
    """All registered sections by name, in the order of the report."""
    entries = registry.entries("section")
    ordered = sorted(entries, key=lambda name: entries[name].details.get("order", 1000))
    return {name: entries[name].target for name in ordered}
