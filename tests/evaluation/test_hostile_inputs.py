"""Names and files that others wrote: a report is always written, and shows names as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from contexts import context_of
from rich.console import Console

from worldmodel import loading
from worldmodel.config import EvaluationOptions
from worldmodel.errors import StorageError, printable
from worldmodel.evaluation.compare_runs import compare_runs
from worldmodel.evaluation.evaluator import evaluate, write
from worldmodel.evaluation.markup import markdown_text
from worldmodel.evaluation.results import Provenance, Results, render
from worldmodel.evaluation.sections.spectrum import Spectrum

ROW = {"stage": "world_model", "step": 1, "loss/total": 1.0}
EDITS = {
    "torn": '{"stage": "wor',
    "empty": "",
    "blank lines": "\n\n\n",
    "not JSON": "loss: 3",
    "not UTF-8": b"\xff\xfe\x00{",
    "zeros": b"\x00" * 100,
    "a list": [1, 2],
    "a number": 3,
    "null": None,
    "a string": "row",
    "no stage": {"step": 2, "loss/total": 1.0},
    "no step": {"stage": "world_model", "loss/total": 1.0},
    "stage is a list": ROW | {"stage": ["a"]},
    "stage is null": ROW | {"stage": None},
    "stage is markup": ROW | {"stage": "<script>alert(1)</script>\u202e\ud800"},
    "step is a string": ROW | {"step": "two"},
    "step is null": ROW | {"step": None},
    "step is NaN": ROW | {"step": float("nan")},
    "step is huge": ROW | {"step": 10**400},
    "step is negative": ROW | {"step": -5},
    "value is a string": ROW | {"step": 2, "loss/total": "0.1"},
    "value is null": ROW | {"step": 2, "loss/total": None},
    "value is an object": ROW | {"step": 2, "loss/total": {"a": 1}},
    "value is infinite": ROW | {"step": 2, "loss/total": float("inf")},
    "value is huge": ROW | {"step": 2, "loss/total": 1.7e308},
    "value is hugely negative": ROW | {"step": 2, "loss/total": -1.7e308},
    "value is tiny": ROW | {"step": 2, "loss/total": 5e-324},
    "value has 5,000 digits": '{"stage": "world_model", "step": 2, "loss/total": ' + "9" * 5000,
    "nested": "[" * 100_000,
}


@pytest.fixture(scope="module")
def small_results() -> Results:
    return Results({"spectrum": Spectrum(np.array([0.5]), np.array([0.1]))}, 0.95)


def as_bytes(line: object) -> bytes:
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def check_drawn(page: str) -> None:
    drawn = re.findall(r' (?:d|points|cx|cy)="([^"]*)"', page)
    assert not any("nan" in path or "inf" in path for path in drawn)
    assert "<script" not in page


@pytest.mark.parametrize("place", ["first", "between", "last", "alone"])
def test_a_report_is_written_whatever_metrics_jsonl_holds(small_results, place, tmp_path) -> None:
    rows = [json.dumps(ROW | {"step": step}).encode() for step in (1, 2, 3)]
    before = {"first": 0, "between": 1, "last": 3, "alone": 0}[place]
    for name, line in EDITS.items():
        lines = [*rows[:before], as_bytes(line), *rows[before:]]
        text = as_bytes(line) if place == "alone" else b"\n".join(lines)
        (tmp_path / "metrics.jsonl").write_bytes(text)
        write(small_results, tmp_path / "evaluation", tmp_path / "metrics.jsonl")
        page = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
        check_drawn(page)
        assert (place == "alone") != ("loss/total \u00b7 world_model" in page), name


def test_curves_are_drawn_of_values_of_any_size(small_results, tmp_path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    for values in ([1.7e308, -1.7e308], [5e-324, 0.0], [1.0, 1.0 + 2e-16], [1e300, 1e300], [0, 0]):
        rows = [ROW | {"step": step, "loss/total": value} for step, value in enumerate(values)]
        metrics.write_text("\n".join(map(json.dumps, rows)))
        write(small_results, tmp_path, metrics)
        check_drawn((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_a_report_is_written_without_a_readable_metrics_jsonl(small_results, tmp_path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("directory", "pipe", "loop", "missing"):
        write(small_results, tmp_path / name / "evaluation" if name == "directory" else tmp_path,
              tmp_path / name)  # fmt: skip
    assert (tmp_path / "report.html").exists()


def test_an_evaluation_that_cannot_be_written_is_refused_before_it_starts(
    small_run: Path, tmp_path: Path
) -> None:
    runs = [Path(shutil.copytree(small_run, tmp_path / name)) for name in ("one", "other")]
    (runs[0] / "evaluation").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="evaluation cannot be written: "):
        loading.load(runs[0]).evaluate(horizons=[10**6])  # refused once it has begun
    (tmp_path / ".compared").write_text("")
    with pytest.raises(StorageError, match="compared.* cannot be written: "):
        compare_runs(list(map(str, runs)), "last", {"horizons": [10**6]}, None)


NAMES = (
    "<img src=x onerror=alert(1)>",
    "[link](javascript:alert(1))",
    "a|b\n# heading",
    "$a_b_c$ *x* `y` &lt;",
    "\x1b[31m\x07\u202e",
    "[/red] {which} %s {}",
    "5",
)


class Tags(HTMLParser):
    """Collects tags and the text around them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_every_output(worlds, name: str, tmp_path: Path) -> None:
    dataset = worlds.linear_dataset([30, 25, 40])
    position = dataset.observations["position"]
    dataset = dataclasses.replace(dataset, observations={name: position}, source=name)

    class Named(worlds.Linear):
        def observe(self, window, key, state=None, action=None):
            return window.observation[name]

        def observation(self, state):
            return {name: super().observation(state)["position"]}

    options = EvaluationOptions([1, 5], 4, 2, 4, resamples=20, free_run=True)
    results = evaluate(context_of(Named(0.2), dataset, options), Provenance(name, "policy", 3))
    write(results, tmp_path)
    tags = Tags()
    tags.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert tags.tags.isdisjoint({"img", "script"}) and printable(name)[:5] in tags.words
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    console.print(render(results))
    for text in (
        (tmp_path / "results.md").read_text(encoding="utf-8"),
        (tmp_path / "report.html").read_text(encoding="utf-8"),
        (tmp_path / "results.csv").read_text(encoding="utf-8"),
        console.export_text(),
    ):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["section"] == "prediction"]
    assert {(row["key"], row["horizon"]) for row in rows} == {(printable(name), h) for h in "15"}
    markdown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)(<|`|\*|\$|\]\()|^# heading", markdown, re.M)
    assert markdown_text(name) in markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5 [0.1, -0.2] of num_samples, 5 % - 1", "0.5 [0.1, -0.2] of num_samples, 5 % - 1"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("_a_ <b> $c$ |", "\\_a\\_ \\<b> \\$c\\$ \\|"),
        ("[a](b)", "[a\\](b)"),
        ("&lt; & R&D", "\\&lt; & R&D"),
        ("a\nb\x1b", "a\\\\nb\\\\x1b"),
    ],
)
def test_markdown_is_escaped_where_it_would_be_markup(text: str, expected: str) -> None:
    assert markdown_text(text) == expected
