"""Results as plain JSON; reports of several runs, as files and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType

from worldmodel.evaluation.markup import markdown_text, terminal_text
from worldmodel.evaluation.result_table import ResultTable
from worldmodel.evaluation.statistics import Annotated, Estimate, finite_or_none
from worldmodel.system.storage import make_directory, write_json, write_text_atomic

FORMAT = 2  # of results.json and comparison.json
NARROWEST = 100  # columns


class Report(NamedTuple):
    """Summary, tables and notes, and the same as JSON and as an HTML page."""

    title: str
    summary: Sequence[str]
    tables: Sequence[ResultTable]
    notes: Sequence[str]
    json: dict[str, Any]
    page: str


def write_report(report: Report, folder: Path, name: str) -> None:
    """Writes NAME.json, NAME.md and NAME.html, and prints summary, tables and notes."""
    tables = [line for table in report.tables for line in (table.markdown(), "")]
    summary, notes = (list(map(markdown_text, x)) for x in (report.summary, report.notes))
    lines = [f"# {markdown_text(report.title)}", "", *summary, "", *tables, *notes, ""]
    make_directory(folder)
    write_json(folder / f"{name}.json", report.json)
    write_text_atomic(folder / f"{name}.md", "\n".join(lines))
    write_text_atomic(folder / f"{name}.html", report.page)
    drawn = [table.to_rich() for table in report.tables]
    sentences, notes = (map(terminal_text, x) for x in (report.summary, report.notes))
    show(Group(*sentences, *drawn, *notes), name, folder / f"{name}.html")


def show(report: RenderableType, name: str, page: Path) -> None:
    """Prints a report, and where its page is, at the width of the terminal, if there is one."""
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=max(terminal.width, NARROWEST))
    console.print(report)
    console.print(terminal_text(f"{name:<12} {page}"), soft_wrap=True)


def json_document(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON with its format version, and the texts of methods, once each."""
    methods: dict[str, int] = {}
    plain = to_plain(tree, methods)
    return {"format": FORMAT} | plain | {"methods": list(methods)}


def as_mapping(value: Any) -> Any:
    """A dataclass as its `numbers`, or else its fields by name; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        numbers = getattr(value, "numbers", None)
        return vars(value) if numbers is None else numbers()
    return value


def to_plain(value: Any, methods: dict[str, int] | None = None) -> Any:
    """Plain JSON of nested containers, dataclasses, arrays and estimates, with null for what is not
    finite.

    methods: collects the texts of methods by id; without it they stand at each estimate
    """
    if isinstance(value, Estimate):
        return value.to_json(methods)
    if isinstance(value, Annotated):
        return value.estimate.to_json(methods) | to_plain(value.details, methods)
    value = as_mapping(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(x, methods) for key, x in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_plain(x, methods) for x in value]
    return finite_or_none(value) if isinstance(value, float) else value
