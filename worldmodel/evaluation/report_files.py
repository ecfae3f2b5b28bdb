"""What was found of several runs, as files in a folder and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.text import Text

from worldmodel.evaluation.result_table import ResultTable
from worldmodel.system.storage import write_json, write_text_atomic

NARROWEST = 100  # columns


class Report(NamedTuple):
    """The verdict, tables, notes, and the same as JSON and as a page."""

    title: str
    verdict: Sequence[str]
    sheets: Sequence[ResultTable]
    notes: Sequence[str]
    json: dict[str, Any]
    page: str


def write_report(made: Report, folder: Path, name: str) -> None:
    """Writes NAME.json, NAME.md and NAME.html, and shows what they hold."""
    tables = [line for sheet in made.sheets for line in (sheet.markdown(), "")]
    lines = [f"# {made.title}", "", *made.verdict, "", *tables, *made.notes, ""]
    write_json(folder / f"{name}.json", made.json)
    write_text_atomic(folder / f"{name}.md", "\n".join(lines))
    write_text_atomic(folder / f"{name}.html", made.page)
    console = Console(width=max(Console().width, NARROWEST))
    shown = [sheet.to_rich() for sheet in made.sheets]
    console.print(Group(*map(Text, made.verdict), *shown, *map(Text, made.notes)))
    console.print(f"{name:<12} {folder / f'{name}.html'}", soft_wrap=True, highlight=False)
