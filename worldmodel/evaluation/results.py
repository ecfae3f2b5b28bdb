"""The results of an evaluation, and how they are written: JSON, CSV, Markdown and a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Group, RenderableType

from worldmodel.errors import printable
from worldmodel.evaluation.markup import markdown_text, terminal_text
from worldmodel.evaluation.report_files import as_mapping, json_document
from worldmodel.evaluation.result_table import listed
from worldmodel.evaluation.section import Section, sections
from worldmodel.evaluation.statistics import Annotated, Estimate, finite_or_none

COLUMNS = ("section", "key", "horizon", "metric", "value", "low", "high", "n")

Kind = TypeVar("Kind", bound=Section)
Keys = tuple[str | int, ...]  # horizons are numbers, names are not


@dataclass(frozen=True)
class Provenance:
    """Where the results come from.

    held_out_sha256: digest of the episodes evaluated on
    data: which dataset these are from
    seconds: that each section took
    """

    run: str = ""
    stage: str = ""
    step: int = 0
    held_out_sha256: str = ""
    command: str = ""
    environment: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    data: str = ""

    @property
    def checkpoint(self) -> str:
        return f"{self.stage}, step {self.step:,}" if self.stage else "not from a run"


@dataclass(frozen=True)
class Results:
    """A whole evaluation.

    sections: those that apply, by name, in the order of the report
    caveats: notes that belong to no section
    last: results of the last checkpoint, where these are those of the best one
    """

    sections: Mapping[str, Section]
    confidence: float
    provenance: Provenance = field(default_factory=Provenance)
    caveats: list[str] = field(default_factory=list)
    last: Results | None = None

    def __getitem__(self, kind: type[Kind]) -> Kind:
        """The section of a class. Raises KeyError where it does not apply."""
        for section in self.sections.values():
            if isinstance(section, kind):
                return section
        raise KeyError(kind.__name__)

    @property
    def notes(self) -> list[str]:
        """All caveats."""
        return [*self.caveats, *(n for s in self.sections.values() for n in s.notes())]

    @property
    def brackets(self) -> str:
        return f"Brackets hold the {100 * self.confidence:g} % interval."

    @property
    def other_last(self) -> Results | None:
        """The results of the last checkpoint, where that is not this one."""
        if self.last is None or self.last.provenance.checkpoint == self.provenance.checkpoint:
            return None
        return self.last


def summarize(results: Results) -> list[str]:
    """The results in plain sentences."""
    sentences = [line for s in results.sections.values() for line in s.sentences()]
    if results.other_last is not None:
        last = results.other_last
        highlights = [text for s in last.sections.values() for text in s.highlights()]
        found = f": {listed(highlights)}" if highlights else ""
        sentences.append(
            f"The last checkpoint ({last.provenance.checkpoint}), next to this best one{found}."
        )
    elif results.last is not None:
        sentences.append("This best checkpoint is also the last one.")
    return sentences or ["There was neither a prediction nor a return to evaluate."]


# ----------------------------------------------------------------------------------------- writing


def to_json(results: Results) -> dict[str, Any]:
    """results.json: `numbers` of all sections, and provenance. `methods` holds the text behind
    every number once; a number's `method` is its place there.
    """
    source = results.provenance
    last = results.last
    return json_document(
        {
            "run": source.run,
            "stage": source.stage,
            "step": source.step,
            **_numbers(results),
            "last": last
            and {"stage": last.provenance.stage, "step": last.provenance.step, **_numbers(last)},
            "notes": results.notes,
            "environment": source.environment,
            "data": source.data,
            "held_out_sha256": source.held_out_sha256,
            "command": source.command,
            "seconds": source.seconds,
            "software": source.software,
            "config": source.config,
        }
    )


def _numbers(results: Results) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for kind in sections().values():
        numbers |= kind.absent
    for section in results.sections.values():
        numbers |= section.numbers()
    return numbers


def to_csv(results: Results) -> str:
    """results.csv: a row for every number, with the COLUMNS. `section` is a key of results.json,
    `horizon` in steps, or empty. Where a section is a flat mapping, such as `returns`, its names
    are keys.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in results.sections.values():
        for name, tree in section.numbers().items():
            flat = isinstance(tree, Mapping) and all(isinstance(x, Estimate) for x in tree.values())
            for path, number in _estimates(tree):
                place = (path[0], "", name) if flat else _place(path)
                ends = (finite_or_none(x) for x in (number.value, number.low, number.high))
                writer.writerow([name, *map(printable, place), *ends, number.n])
    return file.getvalue()


def _estimates(tree: Any, path: Keys = ()) -> Iterator[tuple[Keys, Estimate]]:
    tree = tree if isinstance(tree, Estimate) else as_mapping(tree)
    if isinstance(tree, Estimate):
        yield path, tree
    elif isinstance(tree, Annotated):
        yield path, tree.estimate
        yield from _estimates(tree.details, path)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _estimates(value, (*path, key))
    elif isinstance(tree, (list, tuple)):
        for place, value in enumerate(tree):
            yield from _estimates(value, (*path[:-1], f"{''.join(map(str, path[-1:]))}[{place}]"))


def _place(path: Keys) -> tuple[str, str, str]:
    """Key, horizon and metric. The first number in the path is the horizon, after the key and
    before the metric; without one, the last part is the metric.
    """
    parts = [str(part) for part in path]
    for place, part in enumerate(path):
        if isinstance(part, int):
            return ".".join(parts[:place]), parts[place], ".".join(parts[place + 1 :])
    return ".".join(parts[:-1]), "", parts[-1]


def markdown(results: Results) -> str:
    """results.md."""
    source = results.provenance
    title = markdown_text(f"{source.run or 'world model'}: {source.checkpoint}")
    lines = [f"# {title}", "", *map(markdown_text, summarize(results)), ""]
    lines += [*map(markdown_text, [results.brackets, *results.caveats]), ""]
    for section in results.sections.values():
        lines += _section_markdown(section)
    if results.other_last is not None:
        for section in results.other_last.sections.values():
            lines += _section_markdown(section, "Last checkpoint: ")
    return "\n".join(lines)


def _section_markdown(section: Section, before: str = "") -> list[str]:
    parts = [table.markdown("###") for table in section.tables()]
    parts += [markdown_text(text) for text in (section.explanation, *section.notes()) if text]
    blocks = [line for part in parts for line in (part, "")]
    return [f"## {before}{section.title}", "", *blocks] if blocks else []


def render(results: Results) -> RenderableType:
    """For a terminal of 100 columns: summary, tables and notes."""
    tables = [table for s in results.sections.values() for table in s.tables()]
    shown = [table.to_rich() for table in tables if table.in_terminal]
    sentences, notes = (map(terminal_text, x) for x in (summarize(results), results.notes))
    return Group(*sentences, *shown, *notes)
