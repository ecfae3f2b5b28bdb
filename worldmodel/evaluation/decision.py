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
from worldmodel.config import DecisionOptions, EvaluationOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.environments.real import Observation, RealEnvironment, episode_limit
from worldmodel.evaluation.agreement import (
    ImaginedReturn,
    RankAgreement,
    RealReturn,
    rank_agreement,
)
from worldmodel.evaluation.cloning import cloned
from worldmodel.evaluation.contenders import NOISE, Mixed, contenders, imagined_returns, noisy
from worldmodel.evaluation.returns import (
    PLANNED_LANES,
    Act,
    Chooser,
    environments_of,
    model_policies,
    model_policy,
    play_in,
)
from worldmodel.evaluation.sequences import SequenceAgreement, sequence_agreement
from worldmodel.evaluation.statistics import Bootstrap, Number
from worldmodel.models.interface import WorldModel
from worldmodel.planning import Value

CLONE = "cloned from the logs"
PLANNER = "planner"  # acts from few starts: each of its steps holds hundreds of imagined rollouts
WANDERING = noisy(NOISE[2])  # who leads to the states in which plans are ranked


@dataclass(frozen=True)
class InBothWorlds:
    """A policy's mean return in the model and in the real environment, over the same starts."""

    imagined: Number
    real: Number

    def to_json(self) -> dict[str, Any]:
        return {"imagined": self.imagined.to_json(), "real": self.real.to_json()}


@dataclass(frozen=True)
class Decision:
    """Agreement over policies, by the number of steps; each policy after the most steps; and
    agreement over sequences of actions, None where none was judged.
    """

    lengths: dict[int, RankAgreement]
    policies: dict[str, InBothWorlds]
    rollouts: int
    sequences: SequenceAgreement | None

    @property
    def steps(self) -> int:
        """The most."""
        return max(self.lengths)

    @property
    def agreement(self) -> RankAgreement:
        """After the most steps."""
        return self.lengths[self.steps]

    def to_json(self) -> dict[str, Any]:
        """The agreement after the most steps stands on top."""
        return self.agreement.to_json() | {
            "steps": self.steps,
            "rollouts": self.rollouts,
            "lengths": {str(h): a.to_json() for h, a in self.lengths.items()},
            "policies": {name: both.to_json() for name, both in self.policies.items()},
            "sequences": None if self.sequences is None else self.sequences.to_json(),
        }


def decides(model: WorldModel, spec: DataSpec, options: EvaluationOptions) -> bool:
    """Whether there is anything to rank, and it is asked for."""
    return options.decision.rollouts > 0 and model.imagines and spec.has_reward


def decide(
    model: WorldModel,
    policy: nnx.Module | None,
    earlier: Mapping[str, nnx.Module],
    spec: DataSpec,
    logs: Trajectories,
    environment: str,
    options: EvaluationOptions,
    value: Value | None = None,
) -> Decision:
    """Judges a model by a clone of who acted in the `logs`; policies made from `policy`, or from
    the clone where there is none, and `earlier` ones, who act on its features; and the planner,
    where one is asked for, with a critic's `value`.
    """
    decision, key = options.decision, jax.random.key(options.seed)
    bootstrap = Bootstrap(options.resamples, options.confidence, options.seed)
    lengths = compared_lengths(decision, environment)
    clone = cloned(model, spec, logs, key)
    alike = contenders(policy or clone, earlier, spec.action, "policy" if policy else CLONE)
    others: dict[str, Chooser] = {CLONE: Mixed(clone, spec.action)} if policy else {}
    planner = planning.build(options.planner, spec, policy, value)
    others |= {} if planner is None else {PLANNER: planner}
    acts = dict(zip(alike, model_policies(model, list(alike.values()), spec), strict=True))
    acts |= {name: model_policy(model, chooser, spec) for name, chooser in others.items()}
    choosers = alike | others
    with environments_of(environment, spec, decision.rollouts) as environments:
        first = first_observations(environments, options.seed)
        played, imagined = {}, {}
        for name, chooser in choosers.items():
            count = PLANNED_LANES if name == PLANNER else decision.rollouts
            some = {of: seen[:count] for of, seen in first.items()}
            played[name] = real_returns(
                environments[:count], spec, acts[name], options.seed, lengths
            )
            imagined[name] = imagined_returns(model, chooser, spec, some, lengths, key)
        sequences = None
        if decision.starts:
            sequences = sequence_agreement(
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
        name: InBothWorlds(
            bootstrap.mean(imagined[name].values[:, -1], "starts"),
            bootstrap.mean(played[name].values[:, -1], "starts"),
        )
        for name in choosers
    }
    return Decision(agreements, policies, decision.rollouts, sequences)


def compared_lengths(options: DecisionOptions, environment: str) -> list[int]:
    """No longer than an episode can be: the model does not know of a limit of time."""
    limit = episode_limit(environment)
    return sorted({h if limit is None else min(h, limit) for h in options.lengths})


def first_observations(environments: Sequence[RealEnvironment], seed: int) -> Observation:
    """{name: (E, ...)} of the episodes with seeds from `seed` on."""
    seen = [environment.reset(seed + i) for i, environment in enumerate(environments)]
    return {key: np.stack([o[key] for o in seen]) for key in seen[0]}


def real_returns(
    environments: Sequence[RealEnvironment],
    spec: DataSpec,
    act: Act,
    seed: int,
    lengths: Sequence[int],
) -> RealReturn:
    """(E, lengths) what is earned up to there in an episode of every environment."""
    count = len(environments)
    played = play_in(environments, spec, act, count, seed, count, max(lengths))
    earned = played.rewards.cumsum(1)
    return RealReturn(earned[:, np.minimum(lengths, earned.shape[1]) - 1])
