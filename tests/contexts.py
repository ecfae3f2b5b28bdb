"""The context of a model alone, as most tests of sections need it."""

from __future__ import annotations

from typing import Any

from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.section import Context
from worldmodel.models import WorldModel


def context_of(
    model: WorldModel,
    data: Trajectories,
    options: EvaluationOptions,
    spec: DataSpec | None = None,
    policy: Any = None,
    environment: str | None = None,
    **given: Any,
) -> Context:
    """All episodes of `data` are held out."""
    spec = data.spec() if spec is None else spec
    return Context(model, policy, spec, data, data, environment, options, **given)
