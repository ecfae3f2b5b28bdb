"""Planning: actions by a search over imagined rollouts. Continuous actions only.

A planner is a `Planner` with a function that weights candidates by their returns, one file each:

    planner = build(PlannerOptions(kind="cem"), spec)
    plan = planner.init_carry(batch)
    plan, action = planner(model, state, plan, key)  # at every step of the environment
"""

from __future__ import annotations

from flax import nnx

from worldmodel.config import PlannerOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.planning.agent import Agent
from worldmodel.planning.cem import cem
from worldmodel.planning.mppi import mppi
from worldmodel.planning.planner import Planner, Value, Weigh

__all__ = ["PLANNERS", "Agent", "Planner", "Value", "build", "validate"]

# kind -> weights of candidates
PLANNERS: dict[str, Weigh] = {"cem": cem, "mppi": mppi}


def build(
    options: PlannerOptions,
    spec: DataSpec,
    actor: nnx.Module | None = None,
    value: Value | None = None,
) -> Planner | None:
    """Builds a planner; None for kind "none".

    options: of the search; `num_policy_samples=0` and `use_value=False` turn actor and value off
    spec: of the dataset
    actor: proposes candidates, from features (B, F) to a distribution over actions
    value: of the states at the horizon, from features (..., F) to (...)

    Raises ConfigError for discrete actions and for datasets without rewards.
    """
    validate(options, spec)
    if options.kind == "none":
        return None
    return Planner(
        options,
        PLANNERS[options.kind],
        spec.action.size,
        actor if options.num_policy_samples else None,
        value if options.use_value else None,
    )


def validate(options: PlannerOptions, spec: DataSpec) -> None:
    """Raises ConfigError for a dataset with discrete actions or without rewards."""
    if options.kind == "none":
        return
    problem = None
    if spec.action.discrete:
        problem = f"requires continuous actions, and this dataset has {spec.action.size} classes"
    elif not spec.has_reward:
        problem = "requires rewards, and this dataset has none"
    if problem:
        key = "evaluation.planner.kind"
        raise ConfigError(f"{key}={options.kind}: {problem}; accepted: {key}=none")
