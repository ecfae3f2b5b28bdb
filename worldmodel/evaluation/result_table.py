"""A table of texts and estimates for Markdown, HTML and terminals, which reports n by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from worldmodel.evaluation.markup import markdown_text, terminal_text
from worldmodel.evaluation.statistics import Estimate

Cell = str | Estimate
MOST_DIMENSIONS, WORST = 32, 5  # of a vector that has a table of its worst dimensions


class Written(NamedTuple):
    """A table of texts."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class ResultTable:
    """hidden_in_terminal: columns that a terminal has no room for
    in_terminal: whether a terminal shows the table at all
    """

    title: str
    header: list[str]
    rows: Sequence[Sequence[Cell]]
    hidden_in_terminal: tuple[str, ...] = ()
    in_terminal: bool = True

    def formatted(self) -> Written:
        """n is in the title if it is the same everywhere, in a last column if it is the same within
        each row, and else in each cell.
        """
        numbers = [[cell for cell in row if isinstance(cell, Estimate)] for row in self.rows]
        by_row = [list(dict.fromkeys(n.counted for n in row)) for row in numbers]
        flat = [n for row in numbers for n in row]
        if not flat:
            return Written(self.title, self.header, [list(map(str, row)) for row in self.rows])
        if len({n.counted for n in flat}) == 1:
            return Written(f"{self.title}, over {flat[0].counted}", self.header, self._brief())
        if any(len(counts) > 1 for counts in by_row):
            return Written(self.title, self.header, [list(map(str, row)) for row in self.rows])
        units = {n.sample_unit for n in flat}
        header, of_each = "n", [counts[0] if counts else "" for counts in by_row]
        if len(units) == 1:
            within = " (ep.)" if any(n.episodes is not None for n in flat) else ""
            header = f"{units.pop()}{within}"
            of_each = [row[0].amount if row else "" for row in numbers]
        rows = [[*cells, count] for cells, count in zip(self._brief(), of_each, strict=True)]
        return Written(self.title, [*self.header, header], rows)

    def _brief(self) -> list[list[str]]:
        return [[c.brief if isinstance(c, Estimate) else c for c in row] for row in self.rows]

    def markdown(self, heading: str = "##") -> str:
        title, header, rows = self.formatted()
        lines = [f"| {' | '.join(map(markdown_text, cells))} |" for cells in (header, *rows)]
        ruler = f"| {' | '.join(['---:'] * len(header))} |"
        return "\n".join([f"{heading} {markdown_text(title)}", "", lines[0], ruler, *lines[1:]])

    def to_rich(self) -> RenderableType:
        """Without the columns that are hidden_in_terminal."""
        title, header, rows = self.narrow().formatted()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for name in header:
            table.add_column(terminal_text(name), justify="right")
        for row in rows:
            table.add_row(*map(terminal_text, row))
        return Group("", terminal_text(title, "bold"), table)

    def narrow(self) -> ResultTable:
        """Without the columns that are hidden_in_terminal."""
        kept = [i for i, name in enumerate(self.header) if name not in self.hidden_in_terminal]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, header=[self.header[i] for i in kept], rows=rows)


def table_by_horizon(
    title: str,
    rows: Mapping[int, Mapping[str, Estimate]],
    hidden: Sequence[str] = (),
    of: str = "steps",
) -> ResultTable:
    """A row for every horizon; `hidden` columns are not shown in a terminal."""
    header = list(next(iter(rows.values())))
    cells: list[list[Cell]] = [[str(h), *row.values()] for h, row in rows.items()]
    return ResultTable(title, [of, *header], cells, tuple(hidden))


def worst_dimensions(
    of: str, key: str, horizon: int, columns: Mapping[str, Sequence[Estimate]]
) -> list[ResultTable]:
    """A table of the dimensions of a short vector at which the first column is highest; none of
    other vectors, since results.json has all.
    """
    by = next(iter(columns.values()), ())
    if not 2 <= len(by) <= MOST_DIMENSIONS:
        return []
    worst = sorted(range(len(by)), key=lambda d: -by[d].value)[:WORST]
    which = f"the worst {WORST} of {len(by)}" if len(by) > WORST else f"the {len(by)}"
    title = f"{of} of {which} dimensions of {key} after {in_steps([horizon])}"
    rows = [[str(d), *(column[d] for column in columns.values())] for d in worst]
    return [ResultTable(title, ["dimension", *columns], rows)]


def in_steps(horizons: list[int]) -> str:
    return f"{listed([str(h) for h in horizons])} {'step' if horizons == [1] else 'steps'}"


def span(group: list[int], horizons: list[int]) -> str:
    """Some of the horizons in words: three or more neighbours as a range."""
    first = horizons.index(group[0])
    if len(group) > 2 and group == horizons[first : first + len(group)]:
        return f"{group[0]} to {in_steps(group[-1:])}"
    return in_steps(group)


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def by_horizon(verdicts: Mapping[int, str]) -> str:
    """`good at 1 to 25 steps and bad at 50 steps`."""
    horizons = list(verdicts)
    groups = {v: [h for h in horizons if verdicts[h] == v] for v in verdicts.values()}
    return listed([f"{v} at {span(group, horizons)}" for v, group in groups.items()])
