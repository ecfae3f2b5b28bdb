"""The building blocks of pages, and their style sheet: light and dark, from phone to desk.

Colours after Okabe and Ito, told apart with any colour vision; lines differ in form as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from worldmodel.evaluation.markup import escape
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.statistics import Estimate, format_number

LONG = 24  # cells from which on a table is folded


class Card(NamedTuple):
    """One of the numbers at the top of the report, with a unit and a plain sentence."""

    title: str
    number: Estimate
    unit: str
    text: str


def document(title: str, body: str) -> str:
    """A page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: evaluation</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def header(title: str, about: str, summary: Sequence[str], cards: Sequence[Card] = ()) -> str:
    """Title, cards and the summary."""
    below = f'<p class="run">{escape(about)}</p>' if about else ""
    drawn = "".join(map(_number_card, cards))
    drawn = f'<div class="cards">{drawn}</div>' if drawn else ""
    lines = "".join(f"<li>{words(line)}</li>" for line in summary)
    return (
        f'<header><h1>{escape(title)}</h1>{below}{drawn}<ul class="summary">{lines}</ul></header>'
    )


def _number_card(card: Card) -> str:
    number = card.number
    ends = (number.value, number.low, number.high)
    if all(end == round(end) for end in ends if math.isfinite(end)):
        value, low, high = (f"{end:,.0f}" for end in ends)  # whole steps
    else:
        value, low, high = map(format_number, ends)
    interval = "" if math.isnan(number.low) else f"<small>[{words(f'{low}, {high}')}]</small>"
    unit = f" <small>{words(card.unit)}</small>" if card.unit else ""
    return (
        f'<div class="card"><h2>{words(card.title)}</h2>'
        f'<p class="number">{words(value)} {interval}{unit}</p><p>{words(card.text)}</p></div>'
    )


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def notes(lines: Sequence[str]) -> str:
    return "".join(f"<p class=note>{words(line)}</p>" for line in lines if line)


def folded(summary: str, inside: str) -> str:
    return f"<details><summary>{words(summary)}</summary>{inside}</details>" if inside else ""


def table(of: ResultTable) -> str:
    """Folded if it is long."""
    title, header, cells = of.formatted()
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in cells
    )
    drawn = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
    if len(cells) * len(header) >= LONG:
        return folded(f"Table: {title}", drawn)
    return f"<h3>{escape(title)}</h3>{drawn}"


def _cell(text: str) -> str:
    """The value, and its interval smaller beside it."""
    value, bracket, interval = text.partition(" [")
    small = f" <small>[{words(interval)}</small>" if bracket else ""
    return f"<b>{words(value)}</b>{small}"


def words(text: str) -> str:
    """Text for the page; a minus sign is a true minus, a hyphen stays one."""
    return re.sub(r"(?<!\w)-(?=[\d ])", "\u2212", escape(text))


STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --text: #1d2126; --soft: #5d656f; --grid: #e4e6e9; --fill: #f1f2f4;
  --model: #0067a5; --baseline: #c65102; --dataset: #6b7280;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --text: #e6e8eb; --soft: #a0a8b3; --grid: #2c3239; --fill: #1d2228;
    --model: #58b4f0; --baseline: #f0963c; --dataset: #98a2b0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px; }
header { margin-bottom: 40px; }
.run { margin: 0; color: var(--soft); font-size: 14px; overflow-wrap: anywhere; }
h1 {
  margin: 0 0 4px; font-size: clamp(22px, 2.8vw, 30px); line-height: 1.3; font-weight: 640;
  overflow-wrap: anywhere;
}
.summary { max-width: 46em; margin: 24px 0 0; padding-left: 20px; }
.summary li { margin: 0 0 6px; line-height: 1.5; text-wrap: pretty; }
section { margin-top: 48px; padding-top: 20px; border-top: 1px solid var(--grid); }
h2 { margin: 0 0 16px; font-size: 20px; }
h3 { margin: 28px 0 8px; font-size: 15px; }
h4 { margin: 0 0 2px; font-size: 13px; font-weight: 600; overflow-wrap: anywhere; }
.cards {
  display: grid; gap: 12px; margin-top: 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr));
}
.card { padding: 14px 16px; background: var(--fill); border-radius: 8px; }
.card h2 { margin: 0 0 4px; font-size: 14px; font-weight: 600; color: var(--soft); }
.card .number { margin: 0; font-size: 26px; line-height: 1.25; font-weight: 640; }
.card .number small { font-size: 14px; font-weight: 400; white-space: nowrap; }
.card p:not(.number) { margin: 6px 0 0; font-size: 14px; line-height: 1.45; }
figure { margin: 0 0 28px; }
figcaption, .note { max-width: 68ch; margin: 8px 0 0; color: var(--soft); font-size: 14px; }
.grid-of-panels {
  display: grid; gap: 18px 24px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr));
}
.panel { min-width: 0; max-width: 540px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .name { font-size: 13px; font-weight: 600; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--soft); }
.rule { stroke: var(--soft); stroke-dasharray: 1 4; stroke-linecap: round; stroke-width: 1.5; }
.real { --ink: var(--text); } .model { --ink: var(--model); }
.baseline { --ink: var(--baseline); } .dataset { --ink: var(--dataset); }
.run-0 { --ink: #0072b2; } .run-1 { --ink: #d55e00; } .run-2 { --ink: #009e73; }
.run-3 { --ink: #cc79a7; } .run-4 { --ink: #a58500; } .run-5 { --ink: #56b4e9; }
.line { fill: none; stroke: var(--ink); stroke-width: 2; stroke-linejoin: round; }
.line.real { stroke-width: 1.6; }
.line.thin { stroke-width: .8; opacity: .4; }
.dashed { stroke-dasharray: 5 4; }
.band { fill: var(--ink); opacity: .16; }
.dot { fill: var(--ink); opacity: .35; }
.interval { stroke: var(--ink); stroke-width: 4; }
.mark { fill: var(--ink); stroke: var(--page); stroke-width: 1.5; }
svg .name.model, svg .name.baseline, svg .name.dataset { fill: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; font-size: 14px; }
.key::before {
  content: ""; display: inline-block; width: 18px; height: 3px; margin-right: 7px;
  vertical-align: middle; border-radius: 2px; background: var(--ink);
}
.strip { display: grid; grid-template-columns: repeat(var(--frames), 1fr); gap: 3px; }
.strip span { color: var(--soft); font-size: 11px; text-align: center; }
.moving { width: 100%; max-width: 400px; margin-bottom: 8px; display: block; }
.moving { image-rendering: pixelated; }
.strip img { width: 100%; image-rendering: pixelated; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td {
  padding: 6px 20px 6px 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--grid);
}
th { color: var(--soft); font-weight: 500; }
td b { font-weight: 600; } small { color: var(--soft); font-size: 13px; }
dl {
  display: grid; grid-template-columns: minmax(96px, max-content) 1fr; gap: 4px 20px;
  margin: 0 0 16px; font-size: 14px;
}
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin-top: 12px; font-size: 14px; }
summary { padding: 4px 0; cursor: pointer; color: var(--soft); }
pre {
  overflow-x: auto; padding: 12px; background: var(--fill); border-radius: 6px;
  font-size: 12.5px; line-height: 1.45;
}
@media (max-width: 560px) {
  th, td { padding-right: 14px; font-size: 13px; }
  td small { display: block; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 8px; }
}
"""
