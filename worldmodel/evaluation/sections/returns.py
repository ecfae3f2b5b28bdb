"""Returns in the real environment: of the policy, the planner, a random policy and the dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from worldmodel import planning
from worldmodel.config.references import Reference
from worldmodel.config.registry import register
from worldmodel.environments.real import check_environment, episode_limit
from worldmodel.evaluation.figures import Panel, extent, figure
from worldmodel.evaluation.html import Card
from worldmodel.evaluation.result_table import ResultTable, listed
from worldmodel.evaluation.returns import (
    MOST_LANES,
    PLANNED_LANES,
    ActFunction,
    EvaluationEpisodes,
    FeaturePolicy,
    model_policy,
    random_policy,
    run_episodes,
)
from worldmodel.evaluation.section import MORE, Context, Measure, Section
from worldmodel.evaluation.statistics import (
    SEEDS,
    Bootstrap,
    Estimate,
    Measured,
    finite_or_none,
    format_number,
    wilson,
)

AGENTS = ("policy", "planner")  # that act with the model in the real environment
ORDER = (*AGENTS, "dataset", "random")
COLORS = {"policy": "model", "planner": "model", "dataset": "dataset", "random": "baseline"}
OTHERS = {"dataset": "the dataset's mean", "random": "a random policy"}
MOST_DOTS = 200  # single returns in a row of the figure


@dataclass(frozen=True)
class AgentReturns:
    """Mean return of one agent over episodes or training seeds, and all its returns (episodes,).

    rollouts: the episodes played, for each training seed; none for the dataset
    success: the success rate, where the environment reports success
    normalized: the mean on the scale where the reference's pair of returns is 0 and 100
    """

    mean: Estimate
    episodes: np.ndarray
    rollouts: Sequence[EvaluationEpisodes] = ()
    success: Estimate | None = None
    normalized: Estimate | None = None


@dataclass(frozen=True)
class Scale:
    """The reference that normalized scores are counted by, and what to know about it."""

    reference: Reference
    note: str


@register("section", "returns", order=60)
@dataclass(frozen=True)
class Returns(Section):
    """Returns by agent, as far as there are a policy or planner, an environment and rewards."""

    title = "Returns"
    absent = {"returns": {}, "success": {}, "normalized": {}, "reference": None, "episodes": {}}
    comparable = True

    returns: Mapping[str, AgentReturns] = field(default_factory=dict)
    environment: str | None = None
    scale: Scale | None = None

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        if context.environment is not None and has_agent(context):
            check_environment(context.environment, context.spec)
            return True
        return context.dataset.rewards is not None

    @classmethod
    def run(cls, context: Context) -> Self:
        reference, bootstrap, environment = (
            context.reference,
            context.bootstrap,
            context.environment,
        )
        returns = {}
        if environment is not None:
            for name, acts in build_agents(context).items():
                lanes = PLANNED_LANES if name == "planner" else MOST_LANES
                count, seed = context.options.episodes, context.options.seed
                played = [
                    run_episodes(environment, context.spec, act, count, seed, lanes=lanes)
                    for act in acts
                ]
                returns[name] = agent_returns(played, bootstrap, reference)
        if context.dataset.rewards is not None:
            logged = context.dataset.returns()
            mean = bootstrap.mean(logged, "episodes")
            returns["dataset"] = AgentReturns(mean, logged, normalized=_normalized(mean, reference))
        scale = None
        if reference is not None:
            limit = None if environment is None else episode_limit(environment)
            scale = Scale(reference, reference.note(limit))
        ordered = {name: returns[name] for name in ORDER if name in returns}
        return cls(ordered, None if environment is None else str(environment), scale)

    @property
    def acting(self) -> dict[str, AgentReturns]:
        return {name: self.returns[name] for name in AGENTS if name in self.returns}

    def numbers(self) -> dict[str, Any]:
        return {
            "returns": {name: r.mean for name, r in self.returns.items()},
            "success": {name: r.success for name, r in self.returns.items() if r.success},
            "normalized": {name: r.normalized for name, r in self.returns.items() if r.normalized},
            "reference": None if self.scale is None else asdict(self.scale.reference),
            "episodes": {
                name: [finite_or_none(x) for x in r.episodes]
                for name, r in self.returns.items()
                if name != "dataset"
            },
        }

    def episodes(self) -> list[dict[str, Any]]:
        return [
            {"agent": name, "training_seed": seed} | row
            for name, r in self.returns.items()
            for seed, played in enumerate(r.rollouts)
            for row in played.rows()
        ]

    def notes(self) -> list[str]:
        seeds = max((len(r.rollouts) for r in self.returns.values()), default=1)
        several = (
            f"Returns are means over {seeds} training seeds; all other sections evaluate the "
            "first seed."
        )
        scale = [] if self.scale is None else [self.scale.note]
        return ([several] if seeds > 1 else []) + scale

    def tables(self) -> list[ResultTable]:
        where = f" in the real {self.environment}" if self.environment else ""
        titles = {"success": "success", "normalized": "normalized"}
        optional = {
            name: title
            for name, title in titles.items()
            if any(getattr(r, name) is not None for r in self.returns.values())
        }
        rows = [
            [name, r.mean, *(getattr(r, n) or "" for n in optional)]
            for name, r in self.returns.items()
        ]
        title = f"Mean return of an episode{where}"
        return [ResultTable(title, ["agent", "return", *optional.values()], rows)] if rows else []

    def sentences(self) -> list[str]:
        where = f"In the real {self.environment} the" if self.environment else "The"
        found = []
        for name, r in self.acting.items():
            others = self._compared(r.mean, lambda other: other.brief)
            than = f", {others}" if others else ""
            found.append(f"{where} {name} returns {r.mean.brief} over {r.mean.counted}{than}.")
        return found

    def highlights(self) -> list[str]:
        return [f"return {r.mean} of the {name}" for name, r in self.acting.items()]

    def cards(self) -> list[Card]:
        """Of the first agent that acts with the model."""
        for name, r in self.acting.items():
            where = f"In the real {self.environment}, over" if self.environment else "Over"
            others = self._compared(r.mean, lambda other: format_number(other.value))
            text = f"{where} {r.mean.counted}{': ' if others else ''}{others}."
            return [Card(f"What the {name} returns", r.mean, "", text)]
        return []

    def _compared(self, mean: Estimate, shown: Callable[[Estimate], str]) -> str:
        """With the dataset and a random policy, in words."""
        others = {name: self.returns[name].mean for name in OTHERS if name in self.returns}
        parts = [f"{_verdict(mean, x)} {OTHERS[n]} ({shown(x)})" for n, x in others.items()]
        return listed(parts) if parts else ""

    def figures(self) -> list[str]:
        """A dot for each episode; a diamond and a bar for the mean and its interval."""
        if not self.returns:
            return []
        values = {name: _evenly(r.episodes) for name, r in self.returns.items()}
        names = list(values)
        panel = Panel(
            extent(*values.values()),
            (-0.6, len(names) - 0.4),
            label="Returns of single episodes, and means with intervals",
            x_title="undiscounted return of an episode",
            width=400,
            height=50 + 48 * len(names),
            left=64,
            y_ticks=False,
        )
        for row, name in enumerate(reversed(names)):
            episodes, mean = values[name], self.returns[name].mean
            # A fixed, even jitter keeps equal returns apart: the golden ratio's multiples.
            jitter = (np.arange(len(episodes)) * 0.6180339887 % 1 - 0.5) * 0.5
            panel.dots(episodes, row + jitter, COLORS[name])
            panel.interval(mean, row, COLORS[name])
            panel.text(4, row, name, COLORS[name])
        many = any(len(r.episodes) > MOST_DOTS for r in self.returns.values())
        caption = (
            "A dot for every episode"
            + (f" (at most {MOST_DOTS}, evenly chosen by rank)" if many else "")
            + "; the diamond is the mean, the bar its interval."
        )
        return [figure(caption, [("", panel.svg())])]

    def measures(self) -> list[Measure]:
        """On the same episode seeds; the mean of several training seeds counts."""
        rows = {
            name: Measured.mean_of(np.mean([played.returns for played in r.rollouts], 0))
            for name, r in self.acting.items()
        }
        title = f"Mean return in the real {self.environment}"
        return [Measure("returns", "Returns", title, "return", rows, MORE, "agent")]


def has_agent(context: Context) -> bool:
    """Whether a policy or a planner acts with the model."""
    return context.policy is not None or context.options.planner.kind != "none"


def build_agents(context: Context) -> dict[str, list[ActFunction]]:
    """What acts with the models, for each training seed, and a random policy to compare with;
    empty without a policy and a planner.
    """
    agents, spec, acting = context.agents, context.spec, {}
    policies = [agent.policy for agent in agents if agent.policy is not None]
    if policies:
        pairs = zip(agents, policies, strict=True)
        acting["policy"] = [model_policy(a.model, FeaturePolicy(p), spec) for a, p in pairs]
    options = context.options.planner
    planners = [planning.build(options, spec, a.policy, a.value) for a in agents]
    built = [planner for planner in planners if planner is not None]
    if built:
        pairs = zip(agents, built, strict=True)
        acting["planner"] = [model_policy(a.model, planner, spec) for a, planner in pairs]
    return acting | {"random": [random_policy(spec)]} if acting else {}


def agent_returns(
    played: list[EvaluationEpisodes], bootstrap: Bootstrap, reference: Reference | None
) -> AgentReturns:
    """From the episodes of one agent, or of one for each training seed."""
    returns = [episodes.returns for episodes in played]
    success = [p.success for p in played if p.success is not None]
    rate = None
    if len(played) == 1:
        mean = bootstrap.mean(returns[0], "episodes")
        if success:
            rate = wilson(int(success[0].sum()), len(success[0]), bootstrap.confidence)
    else:
        mean = bootstrap.mean(np.mean(returns, 1), SEEDS)
        if success:
            rate = bootstrap.mean(np.mean(success, 1), SEEDS)
    normalized = _normalized(mean, reference)
    return AgentReturns(mean, np.concatenate(returns), played, rate, normalized)


def _normalized(mean: Estimate, reference: Reference | None) -> Estimate | None:
    if reference is None:
        return None
    value, low, high = (reference.score(x) for x in (mean.value, mean.low, mean.high))
    method = f"{mean.method}; 0 is {reference.min:g}, 100 is {reference.max:g}"
    return Estimate(value, low, high, mean.n, f"{method} ({reference.source})", mean.sample_unit)


def _verdict(mean: Estimate, other: Estimate) -> str:
    """By whether the intervals overlap, which is stricter than a test of the difference."""
    if mean.low > other.high:
        return "above"
    return "below" if mean.high < other.low else "not clearly different from"


def _evenly(values: np.ndarray) -> np.ndarray:
    """At most MOST_DOTS of the values, by rank."""
    ordered = np.sort(values)
    if len(ordered) <= MOST_DOTS:
        return np.asarray(values)
    return ordered[np.linspace(0, len(ordered) - 1, MOST_DOTS).astype(int)]
