"""MkDocs hook: fills the pages of the reference from the code, so that they cannot go out of date.

A page holds `<!-- generated: NAME -->` where the text of the function of that name in `GENERATED`
belongs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from worldmodel.aggregate.command import AggregateOptions
from worldmodel.config import Config, EvalConfig
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import blank, choices_of, compose_files
from worldmodel.config.option import Option, format_value, iter_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, schemas
from worldmodel.play.options import PlayOptions

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
COMMANDS = (
    "train.py",
    "eval.py",
    "-m worldmodel.aggregate",
    "-m worldmodel.play",
    "-m worldmodel.data",
    "-m worldmodel.status",
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks of a page by generated text (an event of MkDocs)."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda mark: GENERATED[mark[1]](), markdown)


def option_tables() -> str:
    """A section for each group, with a table for the options of each of its schemas."""
    top = [(o, v) for o, v in iter_options(Config()) if "." not in o.key and v != MISSING]
    lines = ["## Run", "", *_table(top)]
    for group in SCHEMA_GROUPS:
        lines += ["", f"## {group}", ""]
        shared = _shared_keys(group)
        common = [(o, v) for o, v in _of(group, *schemas(group).values()) if o.key in shared]
        lines += [f"Options of every `{group}`:", "", *_table(common)]
        for name, schema in schemas(group).items():
            own = [(o, v) for o, v in _of(group, schema) if o.key not in shared]
            lines += ["", f"### {group}={name}", "", _summary(schema), "", *_table(own)]
    for group, schema in FIXED.items():
        lines += ["", f"## {group}", "", _summary(schema), "", *_table(_of(group, schema))]
    return "\n".join(lines)


def choice_tables() -> str:
    """For every choice of a group, the options that it sets to other values than the defaults."""
    lines: list[str] = []
    for group in (*SCHEMA_GROUPS, "training"):
        lines += [f"### {group}", "", "| choice | sets |", "|---|---|"]
        for choice in choices_of(CONFIGS, group):
            changed = ", ".join(f"`{key}={value}`" for key, value in _settings(group, choice))
            lines.append(f"| `{group}={choice}` | {changed or 'the defaults'} |")
        lines.append("")
    return "\n".join(lines)


def experiments() -> str:
    """The comment that opens the file of each experiment: what it does, its command, its result."""
    lines: list[str] = []
    for path in sorted((CONFIGS / "experiment").glob("*.yaml")):
        comment = re.match(r"(?:# @package _global_\n)?#?\n*((?:#.*\n)+)", path.read_text())
        text = "\n".join(line[2:] for line in comment[1].splitlines()) if comment else ""
        lines += [f"### experiment={path.stem}", "", "```text", text.strip("\n"), "```", ""]
    return "\n".join(lines)


def command_lines() -> str:
    """What `--help` of each command prints; of train.py without the options, which are a page."""
    lines: list[str] = []
    for command in COMMANDS:
        call = [sys.executable, *command.split(), "--help"]
        text = subprocess.run(call, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        if command == "train.py":
            text = text.partition("\nOptions\n")[0]
        lines += [f"## python {command}", "", "```text", text.strip(), "```", ""]
    return "\n".join(lines)


def eval_options() -> str:
    """Options of eval.py but for those of `evaluation`."""
    return "\n".join(_table((o, v) for o, v in iter_options(EvalConfig()) if "." not in o.key))


def play_options() -> str:
    return "\n".join(_table(iter_options(PlayOptions())))


def aggregate_options() -> str:
    return "\n".join(_table(iter_options(AggregateOptions())))


GENERATED: Mapping[str, Callable[[], str]] = {
    text.__name__: text
    for text in (
        option_tables, choice_tables, experiments, command_lines, eval_options, play_options,
        aggregate_options,
    )
}  # fmt: skip


def _of(group: str, *options: type) -> Iterator[tuple[Option, Any]]:
    """The options of a group's schemas, each once."""
    seen: set[str] = set()
    for schema in options:
        for option, value in iter_options(schema(), f"{group}."):
            if option.key not in seen:
                seen.add(option.key)
                yield option, value


def _shared_keys(group: str) -> set[str]:
    """The options that all schemas of a group have."""
    keys = [{o.key for o, _ in _of(group, schema)} for schema in schemas(group).values()]
    return set.intersection(*keys)


def _settings(group: str, choice: str) -> Iterator[tuple[str, str]]:
    """What `group=choice` sets: choices of other groups, and options that differ from a run without
    it, or in the group itself from the defaults of its schema.
    """
    base = compose_files(CONFIGS, parse_overrides([]))
    files = compose_files(CONFIGS, parse_overrides([f"{group}={choice}"]))
    others = {g: str(c) for g, c in files.chosen.items() if g != group and c != base.chosen[g]}
    yield from others.items()
    defaults = {option.key: value for option, value in iter_options(blank(files.tree))}
    before = _values(base.tree)
    for key, value in _values(files.tree).items():
        in_group, _, name = key.partition(".")
        known = defaults[key] if in_group == group else before.get(key, value)
        if value != known and name != "name" and in_group not in others:
            yield key, format_value(value)


def _values(tree: DictConfig) -> dict[str, Any]:
    """The values of a composed tree by option; interpolations stay as they are written."""
    values: dict[str, Any] = {}
    for option, _ in iter_options(blank(tree)):
        value: Any = OmegaConf.to_container(tree)
        for name in option.key.split("."):
            value = value[name]
        values[option.key] = value
    return values


def _table(options: Iterable[tuple[Option, Any]]) -> list[str]:
    lines = ["| option | default | accepts | meaning |", "|---|---|---|---|"]
    for option, value in options:
        default = "required" if value == MISSING else f"`{format_value(value)}`"
        cells = (f"`{option.key}`", default, option.accepts, option.help)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines if len(lines) > 2 else ["It has no options of its own."]


def _summary(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]
