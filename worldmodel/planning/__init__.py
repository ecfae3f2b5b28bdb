"""Planning: an action is chosen by a search in a model's imagination. Continuous actions only.

A planner is a `Planner` with a way of weighing candidates, one file each.
"""

from __future__ import annotations

from collections.abc import Callable

from flax import nnx

from worldmodel.config import PlannerOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.planning.agent import Agent
from worldmodel.planning.cem import cem
from worldmodel.planning.mppi import mppi
from worldmodel.planning.planner import Planner, Value

__all__ = ["PLANNERS", "Agent", "Planner", "Value", "build", "validate"]

# Kind of the planner -> how it weighs candidates.
PLANNERS: dict[str, Callable] = {"cem": cem, "mppi": mppi}


def build(
    options: PlannerOptions,
    spec: DataSpec,
    actor: nnx.Module | None = None,
    value: Value | None = None,
) -> Planner | None:
    """The planner asked for, or None. `actor` and `value` are used as far as the options say.

    Raises ConfigError as `check` does.
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
    """Raises ConfigError for logs that nothing can be planned for."""
    if options.kind == "none":
        return
    asked = f"evaluation.planner.kind={options.kind}"
    if spec.action.discrete:
        raise ConfigError(
            f"{asked}: needs continuous actions, these logs have {spec.action.size} classes; "
            "accepted here: none"
        )
    if not spec.has_reward:
        raise ConfigError(
            f"{asked}: needs rewards to plan for, these logs have none; accepted here: none"
        )
