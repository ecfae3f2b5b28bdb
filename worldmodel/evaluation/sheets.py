"""A table of words, for any kind of page."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Sheet:
    """`spared` are columns that a terminal has no room for."""

    title: str
    header: list[str]
    rows: list[list[str]]
    spared: tuple[str, ...] = ()

    def markdown(self) -> str:
        lines = [self.header, ["---:"] * len(self.header), *self.rows]
        return "\n".join([f"## {self.title}", "", *(f"| {' | '.join(cells)} |" for cells in lines)])

    def for_terminal(self) -> RenderableType:
        """Without the columns that are spared."""
        sheet = self.narrow()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in sheet.header:
            table.add_column(name, justify="right")
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        return Group(Text(f"\n{sheet.title}", "bold"), table)

    def narrow(self) -> Sheet:
        """Without the columns that are spared."""
        kept = [i for i, name in enumerate(self.header) if name not in self.spared]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Sheet(self.title, [self.header[i] for i in kept], rows)


def in_steps(horizons: list[int]) -> str:
    return f"{listed([str(h) for h in horizons])} {'step' if horizons == [1] else 'steps'}"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
