"""A table of words, for any kind of page."""

from __future__ import annotations

from dataclasses import dataclass


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

    def narrow(self) -> Sheet:
        """Without the columns that are spared."""
        kept = [i for i, name in enumerate(self.header) if name not in self.spared]
        rows = [[row[i] for i in kept] for row in self.rows]
        return Sheet(self.title, [self.header[i] for i in kept], rows)


def in_steps(horizons: list[int]) -> str:
    return f"{listed([str(h) for h in horizons])} {'step' if horizons == [1] else 'steps'}"


def listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
