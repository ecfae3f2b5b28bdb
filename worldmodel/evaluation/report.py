"""report.html: one page that opens offline, on a phone or a desk, by day or night.

The verdict comes first, then what it rests on. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import yaml

from worldmodel.evaluation import figures, ranking
from worldmodel.evaluation.free_run_figure import free_runs
from worldmodel.evaluation.free_run_tables import free_run_tables
from worldmodel.evaluation.prediction_tables import prediction_tables
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.results import Provenance, Results, checkpoint
from worldmodel.evaluation.statistics import format_number
from worldmodel.evaluation.style import STYLE
from worldmodel.evaluation.summary import summarize
from worldmodel.evaluation.tables import (
    UNCERTAINTY_NOTE,
    interval_note,
    returns_sheet,
    uncertainty_sheets,
)


def page(
    results: Results,
    metrics: list[dict[str, Any]] | None = None,
    card: dict[str, Any] | None = None,
) -> str:
    """The whole HTML page. `metrics`: rows of metrics.jsonl; `card`: the data card."""
    source = results.provenance
    title = source.run or "world model"
    body = "".join(
        [
            header(title, checkpoint(source), summarize(results)),
            section("Open-loop prediction", _prediction(results)),
            section(
                "Imagined beside real", figures.example_rollouts(results.prediction.observations)
            ),
            section("Free run", _free_run(results)),
            section("Returns", _returns(results)),
            section("Ranking of policies and plans", _decision(results)),
            section("Uncertainty", _uncertainty(results)),
            section("Latent spectrum", _spectrum(results)),
            section("Training", figures.training_curves(metrics or [])),
            section("Data", _card(card)),
            section("How this was made", _made(source)),
        ]
    )
    return document(title, body)


def document(title: str, body: str) -> str:
    """A page that needs nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: evaluation</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def header(title: str, of: str, verdict: Sequence[str]) -> str:
    """The verdict, under what it is about."""
    first, *rest = verdict
    below = "".join(f"<p>{words(line)}</p>" for line in rest)
    about = f" <span>{escape(of)}</span>" if of else ""
    return (
        f'<header><p class="run">{escape(title)}{about}</p><h1>{words(first)}</h1>{below}</header>'
    )


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _prediction(results: Results) -> str:
    keys = results.prediction.observations
    tables = "".join(map(table, prediction_tables(results.prediction)))
    notes = "".join(f"<p class=note>{words(n)}</p>" for n in results.notes)
    note = f"<p class=note>{words(interval_note(results))}</p>"
    curves = figures.horizon_curves(keys) + figures.calibration(keys) if keys else ""
    return curves + tables + note + notes + _methods(results)


def _free_run(results: Results) -> str:
    sheets = [s for key, run in results.free_run.items() for s in free_run_tables(key, run)]
    return free_runs(results.free_run) + "".join(map(table, sheets))


def _returns(results: Results) -> str:
    if not results.returns:
        return ""
    scale = "" if results.scale is None else f"<p class=note>{words(results.scale.note)}</p>"
    return figures.returns_by_agent(results.returns) + table(returns_sheet(results)) + scale


def _decision(results: Results) -> str:
    if results.decision is None:
        return ""
    tables = [*ranking.tables(results.decision), ranking.policies_sheet(results.decision)]
    noted = "".join(f"<p class=note>{words(n)}</p>" for n in ranking.notes(results.decision))
    return figures.imagined_and_real_returns(results.decision) + "".join(map(table, tables)) + noted


def _uncertainty(results: Results) -> str:
    if results.uncertainty is None:
        return ""
    tables = "".join(map(table, uncertainty_sheets(results.uncertainty)))
    return f"{tables}<p class=note>{words(UNCERTAINTY_NOTE)}</p>"


def _spectrum(results: Results) -> str:
    if results.spectrum is None:
        return ""
    return f"<p>{words(str(results.spectrum))}</p>" + figures.unit_disc(results.spectrum)


def _methods(results: Results) -> str:
    """How the intervals were made, each wording once."""
    numbers = [
        number
        for judged in results.prediction.observations.values()
        for n in judged.horizons.values()
        for number in (n.error, n.skill, n.skill_climatology)
        if number is not None
    ] + [r.mean for r in results.returns.values()]
    items = "".join(f"<li>{words(m)}</li>" for m in dict.fromkeys(n.method for n in numbers))
    return f"<details><summary>How the intervals were made</summary><ul>{items}</ul></details>"


def table(sheet: ResultTable) -> str:
    title, header, cells = sheet.formatted()
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in cells
    )
    return f'<h3>{escape(title)}</h3><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def _cell(text: str) -> str:
    """The value, and its interval smaller beside it."""
    value, bracket, interval = text.partition(" [")
    small = f" <small>[{words(interval)}</small>" if bracket else ""
    return f"<b>{words(value)}</b>{small}"


def _card(card: dict[str, Any] | None) -> str:
    if not card:
        return ""
    lengths, returns = card["lengths"], card["returns"]
    facts = {
        "source": card["source"],
        "episodes": f"{card['episodes']:,} ({card['terminals']:,} terminated, "
        f"{card['timeouts']:,} cut off)",
        "transitions": f"{card['transitions']:,}",
        "length": f"{lengths['min']:,} to {lengths['max']:,} steps, median {lengths['median']:,g}",
        "return": "not logged"
        if returns is None
        else f"{format_number(returns['min'])} to {format_number(returns['max'])}, mean {format_number(returns['mean'])}",
    }
    for key, o in card["observations"].items():
        facts[f"observation {key}"] = f"{o['dtype']} {tuple(o['shape'])}"
    facts["action"] = f"{card['action']['kind']}, {card['action']['size']}"
    return _facts(facts)


def _made(source: Provenance) -> str:
    facts = {
        "command": source.command,
        "run": source.run,
        "checkpoint": checkpoint(source),
        "judged on": source.data,
        "held-out split": source.held_out_sha256[:16],
        "seconds": ", ".join(f"{name} {s:g}" for name, s in source.seconds.items()),
        "software": ", ".join(f"{name} {v}" for name, v in source.software.items()),
    }
    config = yaml.safe_dump(json.loads(json.dumps(source.config)), sort_keys=False)
    details = f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"
    return _facts({k: v for k, v in facts.items() if v}) + (details if source.config else "")


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"


def words(text: str) -> str:
    """Text for the page; a minus sign is a true minus, a hyphen stays one."""
    return re.sub(r"(?<!\w)-(?=[\d ])", "\u2212", escape(text))
