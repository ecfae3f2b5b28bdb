"""Policy ranking: does the model order policies, and plans, as the real environment does?

The candidate policies span quality (`candidate_policies`). Each acts from the first observation of
the same seeded episodes, in the real environment and in imagination, for the same number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from worldmodel import planning
from worldmodel.config import PolicyRankingOptions
from worldmodel.config.environment_ids import EnvironmentId
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.environments.real import (
    Observation,
    RealEnvironment,
    compatibility_error,
    episode_limit,
)
from worldmodel.evaluation.action_sequences import ActionSequenceRanking, rank_action_sequences
from worldmodel.evaluation.candidate_policies import (
    NOISE,
    EpsilonPolicy,
    candidate_policies,
    clone_policy,
    imagined_returns,
    noisy,
)
from worldmodel.evaluation.figures import Panel, extent, figure
from worldmodel.evaluation.html import Card
from worldmodel.evaluation.rank_metrics import (
    ImaginedReturn,
    RankAgreement,
    RealReturn,
    rank_agreement,
)
from worldmodel.evaluation.result_table import Cell, ResultTable
from worldmodel.evaluation.returns import (
    PLANNED_LANES,
    ActFunction,
    StatePolicy,
    environments_of,
    model_policies,
    model_policy,
    run_episodes_in,
)
from worldmodel.evaluation.section import LESS, MORE, Context, Measure, Section
from worldmodel.evaluation.sections.returns import has_agent
from worldmodel.evaluation.statistics import Estimate, values_and_ends

CLONE = "behavior cloning"
PLANNER = "planner"  # acts from few starts: each of its steps holds hundreds of imagined rollouts
EXPLORING = noisy(NOISE[2])  # leads to the states in which action sequences are ranked
COMPARED = {  # subject, title, and what is better
    "spearman": (
        "Rank correlation",
        "Rank correlation of imagined and real returns of each run's own policies",
        MORE,
    ),
    "regret": (
        "Regret",
        "Regret: share of the return range lost by choosing the model's best policy",
        LESS,
    ),
}


@dataclass(frozen=True)
class ReturnPair:
    """A policy's mean return in the model and in the real environment, over the same starts."""

    imagined: Estimate
    real: Estimate


@register("section", "policy_ranking", order=70)
@dataclass(frozen=True)
class PolicyRanking(Section):
    """Agreement over policies, by the number of steps; the returns of each policy after the most
    steps; and agreement over action sequences, None if they were not ranked.
    """

    title = "Policy ranking"
    absent = {"policy_ranking": None}
    comparable = True

    horizons: dict[int, RankAgreement]
    policies: dict[str, ReturnPair]
    rollouts_per_policy: int
    sequences: ActionSequenceRanking | None

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        wanted = context.options.policy_ranking.rollouts_per_policy > 0
        possible = context.model.has_dynamics and context.spec.has_reward
        if not (wanted and possible and context.environment is not None):
            return False
        if has_agent(context):
            return True  # an invalid environment is an error, reported by the returns
        error = compatibility_error(context.environment, context.spec)
        return f"Policies are not ranked: {error}" if error else True

    @classmethod
    def run(cls, context: Context) -> Self:
        """Ranks a clone of the behavior policy; policies made from the run's own, or from the clone
        without one; earlier policies that act on the same features; and the planner, if any.
        """
        model, policy, spec = context.model, context.policy, context.spec
        environment = context.environment
        if environment is None:
            raise ValueError("policies are ranked in a real environment")
        options, key, bootstrap = context.options.policy_ranking, context.key, context.bootstrap
        seed, lengths = context.options.seed, ranking_horizons(options, environment)
        clone = clone_policy(model, spec, context.dataset, key)
        first_policy = (policy or clone, "policy" if policy else CLONE)
        alike = candidate_policies(*first_policy, context.checkpoint_policies, spec.action)
        others: dict[str, StatePolicy] = {}
        if policy is not None:
            others[CLONE] = EpsilonPolicy(clone, spec.action)
        planner = planning.build(context.options.planner, spec, policy, context.value)
        if planner is not None:
            others[PLANNER] = planner
        acts = dict(zip(alike, model_policies(model, list(alike.values()), spec), strict=True))
        acts |= {name: model_policy(model, chooser, spec) for name, chooser in others.items()}
        choosers = alike | others
        with environments_of(environment, spec, options.rollouts_per_policy) as environments:
            first = first_observations(environments, seed)
            played, imagined = {}, {}
            for name, chooser in choosers.items():
                count = PLANNED_LANES if name == PLANNER else options.rollouts_per_policy
                some = {name: seen[:count] for name, seen in first.items()}
                played[name] = real_returns(environments[:count], spec, acts[name], seed, lengths)
                imagined[name] = imagined_returns(model, chooser, spec, some, lengths, key)
            sequences = None
            if options.num_start_states:
                sequences = rank_action_sequences(context, environments, acts[EXPLORING])
        agreements = {
            h: rank_agreement(
                ImaginedReturn(np.stack([m.values[:, i].mean() for m in imagined.values()])),
                RealReturn(np.stack([r.values[:, i].mean() for r in played.values()])),
                bootstrap,
            )
            for i, h in enumerate(lengths)
        }
        policies = {
            name: ReturnPair(
                bootstrap.mean(imagined[name].values[:, -1], "starts"),
                bootstrap.mean(played[name].values[:, -1], "starts"),
            )
            for name in choosers
        }
        return cls(agreements, policies, options.rollouts_per_policy, sequences)

    @property
    def steps(self) -> int:
        """The longest horizon."""
        return max(self.horizons)

    @property
    def agreement(self) -> RankAgreement:
        """After the most steps."""
        return self.horizons[self.steps]

    def numbers(self) -> dict[str, Any]:
        """The agreement after the most steps comes first."""
        return {
            "policy_ranking": {
                **vars(self.agreement),
                "steps": self.steps,
                "rollouts_per_policy": self.rollouts_per_policy,
                "horizons": self.horizons,
                "policies": self.policies,
                "sequences": self.sequences,
            }
        }

    @property
    def explanation(self) -> str:
        return (
            "Returns imagined by the model against those in the real environment, from the same "
            "first observations; intervals over policies, or starts. Regret is what choosing by "
            "the model loses, as a share of the range of returns; MMRV the mean of the largest "
            "real difference that the model orders wrongly, and bias its optimism, both in units "
            "of return."
        )

    def notes(self) -> list[str]:
        if self.sequences is None or not self.sequences.unreproducible_starts:
            return []
        return [
            f"{self.sequences.unreproducible_starts} start states were not reproduced by the same "
            "seed and actions: the environment's own randomness is part of the ranking of action "
            "sequences."
        ]

    def tables(self) -> list[ResultTable]:
        rows: list[list[Cell]] = [
            [str(h), a.spearman, a.pearson, a.regret, a.mmrv, a.bias]
            for h, a in self.horizons.items()
        ]
        header = ["steps", "rank corr.", "linear corr.", "regret", "MMRV", "bias"]
        fewer = {
            name: b.real.n
            for name, b in self.policies.items()
            if b.real.n < self.rollouts_per_policy
        }
        but = "".join(f" ({n} of the {name})" for name, n in fewer.items())
        title = f"Ranking of policies, {self.rollouts_per_policy} starts each{but}"
        tables, of = [ResultTable(title, header, rows, ("linear corr.",))], self.sequences
        if of is not None:
            measures = {"rank correlation": of.spearman, "regret": of.regret}
            rows = [[n, x.estimate, *x.details["quartiles"]] for n, x in measures.items()]
            header = ["measure", "median", "lower quartile", "upper quartile"]
            what = f"{of.num_action_sequences} sequences of {of.sequence_length} actions"
            tables.append(ResultTable(f"Ranking of {what} from each start", header, rows))
        if self.policies:  # the best one in the real environment first
            ordered = sorted(self.policies.items(), key=lambda item: -item[1].real.value)
            rows = [[name, both.imagined, both.real] for name, both in ordered]
            title = f"Return after {self.steps:,} steps, in the model and in the real environment"
            header = ["policy", "imagined", "real"]
            tables.append(ResultTable(title, header, rows, in_terminal=False))
        return tables

    def sentences(self) -> list[str]:
        found = self.agreement
        return [
            f"Policy ranking over {found.spearman.n} policies and {self.steps:,} steps: rank "
            f"correlation of imagined and real returns {found.spearman.brief}, regret "
            f"{found.regret.brief} (share of the return range lost by choosing the model's best "
            "policy)."
        ]

    def highlights(self) -> list[str]:
        return [f"rank correlation {self.agreement.spearman} of policies"]

    def cards(self) -> list[Card]:
        found = self.agreement
        text = (
            f"Rank correlation of imagined and real returns of {found.spearman.n} policies, 1 at "
            f"best. Choosing by the model loses {100 * found.regret.value:.1f} % "
            "of their range."
        )
        return [Card("Whether it ranks policies", found.spearman, "rank correlation", text)]

    def measures(self) -> list[Measure]:
        """Without pairs: each run's model ranks policies made from the run's own policy."""
        measures = []
        for name, (kind, title, better) in COMPARED.items():
            rows = {str(h): getattr(a, name) for h, a in self.horizons.items()}
            key = f"policy_ranking.{name}"
            measures.append(Measure(key, kind, title, kind.lower(), rows, better))
        return measures

    def figures(self) -> list[str]:
        """A cross for each policy: its imagined return over its real one, with both intervals."""
        if not self.policies:
            return []
        pairs = list(self.policies.values())
        real = values_and_ends([both.real for both in pairs]).T
        imagined = values_and_ends([both.imagined for both in pairs]).T
        span = extent(real, imagined)
        panel = Panel(
            span,
            span,
            label="Imagined against real return of every policy",
            x_title=f"real return after {self.steps:,} steps",
            y_title="imagined return",
            width=400,
            height=374,  # so that a unit is as long upwards as across
            left=52,
        )
        panel.line(span, span, "dataset dashed")
        for (x, *x_ends), (y, *y_ends) in zip(real, imagined, strict=True):
            panel.line(x_ends, [y, y], "model thin")
            panel.line([x, x], y_ends, "model thin")
        panel.dots(real[:, 0], imagined[:, 0], "model", 3.5)
        return [
            figure(
                "A dot for every policy: its mean return in the model over that in the real "
                "environment, with their intervals. On the dashed line both are the same; a "
                "ranking needs only that the dots rise together.",
                [("", panel.svg())],
            )
        ]


def ranking_horizons(options: PolicyRankingOptions, environment: str | EnvironmentId) -> list[int]:
    """No longer than the time limit of an episode, which the model does not know."""
    limit = episode_limit(environment)
    return sorted({h if limit is None else min(h, limit) for h in options.horizons})


def first_observations(environments: Sequence[RealEnvironment], seed: int) -> Observation:
    """{name: (E, ...)} of the episodes with seeds from `seed` on."""
    seen = [environment.reset(seed + i) for i, environment in enumerate(environments)]
    return {key: np.stack([o[key] for o in seen]) for key in seen[0]}


def real_returns(
    environments: Sequence[RealEnvironment],
    spec: DataSpec,
    act: ActFunction,
    seed: int,
    lengths: Sequence[int],
) -> RealReturn:
    """(E, lengths) the return up to each length in an episode of every environment."""
    count = len(environments)
    played = run_episodes_in(environments, spec, act, count, seed, count, max(lengths))
    earned = played.rewards.cumsum(1)
    return RealReturn(earned[:, np.minimum(lengths, earned.shape[1]) - 1])
