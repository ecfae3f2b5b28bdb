"""Who acts with a run's models in the real environment, and what they earn there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from worldmodel import planning
from worldmodel.config import Config, EvaluationOptions, PlannerOptions
from worldmodel.data.spec import DataSpec
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
from worldmodel.planning.agent import Agent


def build_agents(
    agents: Sequence[Agent], spec: DataSpec, planner: PlannerOptions
) -> dict[str, list[ActFunction]]:
    """Who acts with the models, one for each agent, and at random beside them; nobody without a
    policy and a planner.
    """
    acting = {}
    if agents[0].policy is not None:
        acting["policy"] = [model_policy(a.model, FeaturePolicy(a.policy), spec) for a in agents]
    if planning.build(planner, spec, agents[0].policy, agents[0].value) is not None:
        planners = [planning.build(planner, spec, a.policy, a.value) for a in agents]
        pairs = zip(agents, planners, strict=True)
        acting["planner"] = [model_policy(a.model, planned, spec) for a, planned in pairs]
    return acting | {"random": [random_policy(spec)]} if acting else {}


def add_training_horizons(
    options: EvaluationOptions, configs: Iterable[Config]
) -> EvaluationOptions:
    """With the horizons too at which the runs use their models: as far as the policy imagined while
    it learned, and as far as a planner looks.
    """
    own = {h for config in configs if (h := config.policy.imagined_horizon) is not None}
    own |= {options.planner.horizon} if options.planner.kind != "none" else set()
    return replace(options, horizons=sorted({*options.horizons, *own}))


def run_agent(
    who: str,
    acts: Sequence[ActFunction],
    environment: str,
    spec: DataSpec,
    options: EvaluationOptions,
) -> list[EvaluationEpisodes]:
    """The episodes of each of `acts`, all on the same episode seeds."""
    lanes = PLANNED_LANES if who == "planner" else MOST_LANES
    return [
        run_episodes(environment, spec, act, options.episodes, options.seed, lanes=lanes)
        for act in acts
    ]
