"""A section that is one file of its own appears in everything that is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from contexts import context_of

from worldmodel.config import EvaluationOptions, registry
from worldmodel.evaluation import Context, Estimate, Section, evaluate, write
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.section import sections
from worldmodel.evaluation.statistics import quantiles

OPTIONS = EvaluationOptions([1, 5], 4, 3, 2, resamples=100)


@dataclass(frozen=True)
class TailError(Section):
    """The error that 95 % of the starts stay below, at the longest horizon."""

    title = "Tail error"
    absent = {"tail_error": None}

    observations: dict[str, Estimate]

    @classmethod
    def applies(cls, context: Context) -> bool | str:
        return context.model.has_dynamics or "Without dynamics there is no tail error."

    @classmethod
    def run(cls, context: Context) -> Self:
        rollouts = context.open_loop
        reached = rollouts.reached(rollouts.horizon)
        observations = {}
        for key, errors in rollouts.metrics.errors.items():
            statistic = quantiles(errors[0, reached.mask, -1], [0.95])
            method = f"95 % quantile over {reached.text}"
            observations[key] = context.bootstrap.clustered(statistic, reached.episodes, method)
        return cls(observations)

    def numbers(self) -> dict[str, Any]:
        return {"tail_error": self.observations}

    def tables(self) -> list[ResultTable]:
        rows = [[key, number] for key, number in self.observations.items()]
        return [ResultTable("Error that 95 % of the starts stay below", ["of", "error"], rows)]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    sections()  # those of the package
    entry = registry.Entry("tail_error", registry.NO_OPTIONS, TailError, {"order": 15})
    monkeypatch.setitem(registry._entries["section"], "tail_error", entry)


def test_a_registered_section_is_in_every_file(worlds, registered, tmp_path: Path) -> None:
    names = list(sections())
    assert names.index("prediction") < names.index("tail_error") < names.index("usable_horizon")
    results = evaluate(context_of(worlds.Linear(0.2), worlds.linear_dataset([30, 25, 40]), OPTIONS))
    write(results, tmp_path)
    number = results[TailError].observations["position"]
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["tail_error"]["position"]["value"] == number.value
    assert saved["seconds"].keys() >= {"prediction", "tail_error"}
    assert (
        f"tail_error,position,,tail_error,{number.value}" in (tmp_path / "results.csv").read_text()
    )
    for name in ("results.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "Tail error" in text and "Error that 95 % of the starts stay below" in text


def test_a_section_that_does_not_apply_leaves_its_reason(worlds, registered) -> None:
    class Static(worlds.Linear):
        has_dynamics = False

    results = evaluate(context_of(Static(), worlds.linear_dataset([30, 25]), OPTIONS))
    assert "tail_error" not in results.sections
    assert "Without dynamics there is no tail error." in results.notes
    with pytest.raises(KeyError, match="TailError"):
        results[TailError]
