"""Planning: actions by a search over imagined rollouts. Continuous actions only.

planner = build(PlannerOptions(kind="cem"), spec)
plan = planner.init_carry(batch)
plan, action = planner(model, state, plan, key)  # at every step of the environment
"""

from __future__ import annotations

from flax import nnx

from worldmodel.config import PlannerOptions
from worldmodel.config.option import option_errors
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError, raise_config_errors, require
from worldmodel.nn.layers import describe
from worldmodel.planning.planner import Agent, Planner, Value
from worldmodel.planning.weights import PLANNERS

__all__ = ["PLANNERS", "Agent", "Planner", "Value", "build", "validate"]


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

    Raises ConfigError for invalid options, discrete actions and datasets without rewards, and
    ArgumentError for arguments of other types.
    """
    require(isinstance(options, PlannerOptions), "options", describe(options), "PlannerOptions")
    require(isinstance(spec, DataSpec), "spec", describe(spec), "a DataSpec, as `run.spec`")
    raise_config_errors(option_errors(options, "planner."))
    raise_config_errors(options.errors("planner."))
    validate(options, spec)
    if options.kind == "none":
        return None
    for name, function in (("actor", actor), ("value", value)):
        accepted = "None, or a function of features"
        require(function is None or callable(function), name, describe(function), accepted)
    actor = actor if options.num_policy_samples else None
    value = value if options.use_value else None
    return Planner(options, PLANNERS[options.kind], spec.action.size, actor, value)


def validate(options: PlannerOptions, spec: DataSpec) -> None:
    """Raises ConfigError for a dataset with discrete actions or without rewards."""
    if options.kind == "none" or (spec.has_reward and spec.action.kind == "continuous"):
        return
    problem = "rewards, and this dataset has none"
    if spec.action.kind != "continuous":
        problem = f"continuous actions, and this dataset has {spec.action.describe()}"
    key = "evaluation.planner.kind"
    raise ConfigError(f"{key}={options.kind}: requires {problem}; accepted: {key}=none")
