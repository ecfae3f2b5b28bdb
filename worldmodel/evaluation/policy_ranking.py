"""Does the model choose as the world does? Policies, and plans, in the model and in the world.

The policies span quality (`contenders`). Each acts from the first observation of the same seeded
episodes, in the real environment and in imagination, for the same number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from worldmodel import planning
from worldmodel.config import EvaluationOptions, PolicyRankingOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.environments.real import Observation, RealEnvironment, episode_limit
from worldmodel.evaluation.action_sequences import ActionSequenceRanking, rank_action_sequences
from worldmodel.evaluation.behavior_cloning import clone_policy
from worldmodel.evaluation.candidate_policies import (
    NOISE,
    EpsilonPolicy,
    candidate_policies,
    imagined_returns,
    noisy,
)
from worldmodel.evaluation.rank_metrics import (
    ImaginedReturn,
    RankAgreement,
    RealReturn,
    rank_agreement,
)
from worldmodel.evaluation.returns import (
    PLANNED_LANES,
    ActFunction,
    StatePolicy,
    environments_of,
    model_policies,
    model_policy,
    run_episodes_in,
)
from worldmodel.evaluation.statistics import Bootstrap, Estimate
from worldmodel.models.interface import WorldModel
from worldmodel.planning import Value

CLONE = "cloned from the logs"
PLANNER = "planner"  # acts from few starts: each of its steps holds hundreds of imagined rollouts
WANDERING = noisy(NOISE[2])  # who leads to the states in which plans are ranked


@dataclass(frozen=True)
class ReturnPair:
    """A policy's mean return in the model and in the real environment, over the same starts."""

    imagined: Estimate
    real: Estimate

    def to_json(self) -> dict[str, Any]:
        return {"imagined": self.imagined.to_json(), "real": self.real.to_json()}


@dataclass(frozen=True)
class PolicyRanking:
    """Agreement over policies, by the number of steps; each policy after the most steps; and
    agreement over sequences of actions, None where none was judged.
    """

    horizons: dict[int, RankAgreement]
    policies: dict[str, ReturnPair]
    rollouts_per_policy: int
    sequences: ActionSequenceRanking | None

    @property
    def steps(self) -> int:
        """The most."""
        return max(self.horizons)

    @property
    def agreement(self) -> RankAgreement:
        """After the most steps."""
        return self.horizons[self.steps]

    def to_json(self) -> dict[str, Any]:
        """The agreement after the most steps stands on top."""
        return self.agreement.to_json() | {
            "steps": self.steps,
            "rollouts_per_policy": self.rollouts_per_policy,
            "horizons": {str(h): a.to_json() for h, a in self.horizons.items()},
            "policies": {name: both.to_json() for name, both in self.policies.items()},
            "sequences": None if self.sequences is None else self.sequences.to_json(),
        }


def can_rank_policies(model: WorldModel, spec: DataSpec, options: EvaluationOptions) -> bool:
    """Whether there is anything to rank, and it is asked for."""
    return options.policy_ranking.rollouts_per_policy > 0 and model.has_dynamics and spec.has_reward


def rank_policies(
    model: WorldModel,
    policy: nnx.Module | None,
    earlier_policies: Mapping[str, nnx.Module],
    spec: DataSpec,
    logs: Trajectories,
    environment: str,
    options: EvaluationOptions,
    value: Value | None = None,
) -> PolicyRanking:
    """Judges a model by a clone of who acted in the `logs`; policies made from `policy`, or from
    the clone where there is none, and `earlier` ones, who act on its features; and the planner,
    where one is asked for, with a critic's `value`.
    """
    decision, key = options.policy_ranking, jax.random.key(options.seed)
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    lengths = ranking_horizons(decision, environment)
    clone = clone_policy(model, spec, logs, key)
    alike = candidate_policies(
        policy or clone, earlier_policies, spec.action, "policy" if policy else CLONE
    )
    others: dict[str, StatePolicy] = {CLONE: EpsilonPolicy(clone, spec.action)} if policy else {}
    planner = planning.build(options.planner, spec, policy, value)
    others |= {} if planner is None else {PLANNER: planner}
    acts = dict(zip(alike, model_policies(model, list(alike.values()), spec), strict=True))
    acts |= {name: model_policy(model, chooser, spec) for name, chooser in others.items()}
    choosers = alike | others
    with environments_of(environment, spec, decision.rollouts_per_policy) as environments:
        first = first_observations(environments, options.seed)
        played, imagined = {}, {}
        for name, chooser in choosers.items():
            count = PLANNED_LANES if name == PLANNER else decision.rollouts_per_policy
            some = {of: seen[:count] for of, seen in first.items()}
            played[name] = real_returns(
                environments[:count], spec, acts[name], options.seed, lengths
            )
            imagined[name] = imagined_returns(model, chooser, spec, some, lengths, key)
        sequences = None
        if decision.num_start_states:
            sequences = rank_action_sequences(
                model, spec, environments, acts[WANDERING], decision, bootstrap, key
            )
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
    return PolicyRanking(agreements, policies, decision.rollouts_per_policy, sequences)


def ranking_horizons(options: PolicyRankingOptions, environment: str) -> list[int]:
    """No longer than an episode can be: the model does not know of a limit of time."""
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
    """(E, lengths) what is earned up to there in an episode of every environment."""
    count = len(environments)
    played = run_episodes_in(environments, spec, act, count, seed, count, max(lengths))
    earned = played.rewards.cumsum(1)
    return RealReturn(earned[:, np.minimum(lengths, earned.shape[1]) - 1])
