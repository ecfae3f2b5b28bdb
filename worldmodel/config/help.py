"""The text of --help: every option with its value, the values it accepts and what it does."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import MISSING

from worldmodel.config import Config, EvalConfig
from worldmodel.config.option import Option, format_value, iter_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, schemas

WIDTH = 100
HELP_COLUMN = 58

EXIT_STATUS = (
    "Exit status: 0 success, 2 invalid input, 74 storage failure, 75 stopped after saving,",
    "130 interrupted by Ctrl-C, 1 any other error.",
)


def training(
    description: str,
    groups: Mapping[str, Sequence[str]],
    chosen: Mapping[str, str | None],
    options: Config,
    values: Mapping[str, Any],
) -> str:
    """Returns the help of train.py.

    groups: the choices of each group; chosen: the one composed
    options: the dataclasses of the chosen options; values: their composed values, nested
    """
    usages = (
        "python train.py [GROUP=CHOICE ...] [OPTION=VALUE ...]",
        "python train.py --multirun seed=0,1,2 ...      one job for each value",
        "python train.py --help [GROUP=CHOICE ...]      the options of these choices",
    )
    entries = [(option, _select(values, option.key)) for option, _ in iter_options(options)]
    lines = [
        *_head(description, usages),
        "",
        "Groups (* chosen)",
        *(_group(group, choices, chosen.get(group)) for group, choices in groups.items()),
        "",
        "Options",
        *_entries((o, v) for o, v in entries if "." not in o.key),
    ]
    for group in (*SCHEMA_GROUPS, *FIXED):
        of_group = [(o, v) for o, v in entries if o.key.startswith(group + ".")]
        choice = f"{group}={chosen.get(group)}"
        lines += ["", _title(choice, type(getattr(options, group))), *_entries(of_group)]
        listed = {option.key for option, _ in of_group}
        for name, schema in schemas(group).items() if group in SCHEMA_GROUPS else ():
            others = [(o, v) for o, v in iter_options(schema(), group + ".") if o.key not in listed]
            if others:
                lines += ["", _title(f"Only with {group}={name}", schema), *_entries(others)]
    return "\n".join([*lines, "", *EXIT_STATUS])


def evaluation(description: str) -> str:
    """Returns the help of eval.py."""
    usages = (
        "python eval.py run=runs/NAME [checkpoint=last|best|STEP] [OPTION=VALUE ...]",
        "python eval.py runs=runs/A,runs/B [OPTION=VALUE ...]                compares runs",
        "python eval.py run=runs/NAME [data=FORMAT] data.OPTION=VALUE ...    on other data",
    )
    options = list(iter_options(EvalConfig()))
    lines = [
        *_head(description, usages),
        "",
        "Options",
        *_entries((o, v) for o, v in options if "." not in o.key),
        "",
        "Evaluation (options that are not given have the values of the run, not these defaults)",
        *_entries((o, v) for o, v in options if "." in o.key),
    ]
    return "\n".join([*lines, "", *EXIT_STATUS])


def command(
    description: str, usages: Sequence[str], options: Any = None, exclude: Collection[str] = ()
) -> str:
    """Returns the help of a command with a dataclass of `options`, without the keys `exclude`."""
    lines = _head(description, usages)
    if options is not None:
        entries = ((o, v) for o, v in iter_options(options) if o.key not in exclude)
        lines += ["", "Options", *_entries(entries)]
    return "\n".join([*lines, "", *EXIT_STATUS])


def _head(description: str, usages: Sequence[str]) -> list[str]:
    paragraphs = textwrap.dedent(description).strip().split("\n\n")
    lines = [line for p in paragraphs for line in (*textwrap.wrap(p, WIDTH), "")]
    return [*lines, *(f"{'' if i else 'Usage:':7}{usage}" for i, usage in enumerate(usages))]


def _group(group: str, choices: Sequence[str], chosen: str | None) -> str:
    marked = ", ".join(f"{c}*" if c == chosen else c for c in choices)
    return textwrap.fill(
        f"  {group:<12}{marked}", WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False
    )


def _entries(options: Iterable[tuple[Option, Any]]) -> Iterator[str]:
    for option, value in options:
        left = f"  {option.key} = {'(required)' if value == MISSING else format_value(value)}"
        if len(left) >= HELP_COLUMN:
            yield left
            left = ""
        indent = " " * HELP_COLUMN
        yield textwrap.fill(
            option.accepts, WIDTH, initial_indent=f"{left:<{HELP_COLUMN}}", subsequent_indent=indent
        )
        yield textwrap.fill(option.help, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _select(values: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


def _title(choice: str, schema: type) -> str:
    return textwrap.fill(f"{choice}: {(schema.__doc__ or '').strip().splitlines()[0]}", WIDTH)
