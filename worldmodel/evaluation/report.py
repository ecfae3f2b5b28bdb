"""report.html: one page that opens offline, on a phone or a desk, in light or dark.

Cards and a summary come first, then the sections they come from. Nothing is loaded from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from worldmodel.evaluation.figures import training_curves
from worldmodel.evaluation.html import document, folded, header, notes, section, table, words
from worldmodel.evaluation.markup import escape
from worldmodel.evaluation.results import Results, summarize, to_json
from worldmodel.evaluation.section import Section
from worldmodel.evaluation.statistics import format_number


def page(
    results: Results,
    metrics: Iterable[str] = (),
    card: dict[str, Any] | None = None,
) -> str:
    """The whole HTML page.

    metrics: lines of metrics.jsonl, for the training curves
    card: the data card
    """
    source = results.provenance
    title = source.run or "world model"
    cards = [card for found in results.sections.values() for card in found.cards()]
    body = [
        header(title, source.checkpoint, summarize(results), cards),
        notes([results.brackets, *results.caveats]),
        *(section(found.title, content(found)) for found in results.sections.values()),
    ]
    if results.other_last is not None:
        last = results.other_last
        parts = "".join(content(found) for found in last.sections.values())
        about = f"Last checkpoint: {last.provenance.checkpoint}"
        body.append(section("Last checkpoint", folded(about, parts)))
    body += [
        section("Training", training_curves(metrics)),
        section("Data", _card(card)),
        section("How this was made", _provenance(results)),
    ]
    return document(title, "".join(body))


def content(found: Section) -> str:
    """Figures, tables and notes of a section."""
    tables = "".join(map(table, found.tables()))
    return "".join(found.figures()) + tables + notes([found.explanation, *found.notes()])


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
        else f"{format_number(returns['min'])} to {format_number(returns['max'])}, "
        f"mean {format_number(returns['mean'])}",
    }
    for key, o in card["observations"].items():
        facts[f"observation {key}"] = f"{o['dtype']} {tuple(o['shape'])}"
    facts["action"] = f"{card['action']['kind']}, {card['action']['size']}"
    return _facts(facts)


def _provenance(results: Results) -> str:
    source = results.provenance
    facts = {
        "command": source.command,
        "run": source.run,
        "checkpoint": source.checkpoint,
        "evaluated on": source.data,
        "held-out split": source.held_out_sha256[:16],
        "seconds": ", ".join(f"{name} {s:g}" for name, s in source.seconds.items()),
        "software": ", ".join(f"{name} {v}" for name, v in source.software.items()),
    }
    methods = "".join(f"<li>{words(text)}</li>" for text in to_json(results)["methods"])
    config = yaml.safe_dump(json.loads(json.dumps(source.config)), sort_keys=False)
    details = folded("How the numbers and their intervals were computed", f"<ul>{methods}</ul>")
    if source.config:
        text = escape(config, keep="\n")
        details += folded("Configuration", f"<pre>{text}</pre>")
    return _facts({k: v for k, v in facts.items() if v}) + details


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f"<dl>{rows}</dl>"
