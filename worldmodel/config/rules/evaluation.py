"""Rules about how a run is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldmodel.config import Config, references
from worldmodel.config.evaluation_data import data_errors
from worldmodel.config.registry import entry_of


def _judged_data_can_be_read(config: Config) -> Iterator[str]:
    if config.evaluation.data is not None:
        yield from data_errors(config.data, config.evaluation.data)


def _scores_have_their_reference(config: Config) -> Iterator[str]:
    if wrong := references.reference_error(config.evaluation):
        yield wrong


def _planners_have_what_they_need(config: Config) -> Iterator[str]:
    planner = config.evaluation.planner
    if planner.kind == "none":
        return
    if config.data.environment is None:
        yield (
            f"evaluation.planner.kind={planner.kind}: acts in the real environment, and "
            "data.environment names none"
        )
    if not entry_of("model", config.model).target.has_dynamics:
        yield (
            f"evaluation.planner.kind={planner.kind}: plans in imagination, and "
            f"model={config.model.name} has no dynamics; accepted: none, or another model"
        )
    if planner.num_elites > planner.num_samples:
        yield (
            f"evaluation.planner.num_elites={planner.num_elites}: they are chosen from "
            f"evaluation.planner.num_samples={planner.num_samples}, and can be no more"
        )


EVALUATION_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _judged_data_can_be_read,
    _scores_have_their_reference,
    _planners_have_what_they_need,
)
