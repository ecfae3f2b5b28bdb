"""The text of --help: every option with its value, what it accepts and what it does."""

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
    "Exit status: 0 success, 2 invalid input, 74 storage failure, 75 pre-empted after saving, "
    "1 other errors."
)


def training(
    description: str,
    groups: Mapping[str, Sequence[str]],
    chosen: Mapping[str, str | None],
    options: Config,
    defaults: Mapping[str, Any],
) -> str:
    """The help of train.py.

    `groups` maps each group to its choices, `chosen` to the one composed; `options` holds their
    dataclasses and `defaults` their values.
    """
    lines = [
        *_paragraphs(description),
        "Usage: python train.py [GROUP=CHOICE ...] [OPTION=VALUE ...]",
        "       python train.py --multirun seed=0,1,2 ...      one job for each value",
        "       python train.py --help [GROUP=CHOICE ...]      the options of these choices",
        "",
        "Groups (* chosen)",
        *(_group(group, choices, chosen.get(group)) for group, choices in groups.items()),
        "",
        "Options",
    ]
    entries = list(iter_options(options))
    lines += _entries((o, _select(defaults, o.key)) for o, _ in entries if "." not in o.key)
    for group in (*SCHEMA_GROUPS, *FIXED):
        chosen_schema = type(getattr(options, group))
        lines += ["", f"{group}={chosen.get(group)}: {_summary(chosen_schema)}"]
        of_group = [o for o, _ in entries if o.key.startswith(group + ".")]
        lines += _entries((o, _select(defaults, o.key)) for o in of_group)
        seen = {o.key for o in of_group}
        for name, schema in _schemas(group).items():
            others = [(o, v) for o, v in iter_options(schema(), group + ".") if o.key not in seen]
            if others:
                lines += ["", f"{group}, schema {name}: {_summary(schema)}", *_entries(others)]
    return "\n".join([*lines, "", EXIT_STATUS])


def evaluation(description: str) -> str:
    """The help of eval.py."""
    options = list(iter_options(EvalConfig()))
    lines = [
        *_paragraphs(description),
        "Usage: python eval.py run=runs/NAME [checkpoint=last|STEP] [OPTION=VALUE ...]",
        "       python eval.py runs=[runs/A,runs/B] [OPTION=VALUE ...]",
        "       python eval.py run=runs/NAME [data=KIND] data.OPTION=VALUE ...      on other logs",
        "",
        "Options",
        *_entries((o, v) for o, v in options if "." not in o.key),
        "",
        "evaluation: what is not given comes from the run's own config; shown: the defaults",
        *_entries((o, v) for o, v in options if "." in o.key),
    ]
    return "\n".join([*lines, "", EXIT_STATUS])


def command(
    description: str, usages: Sequence[str], options: Any = None, exclude: Collection[str] = ()
) -> str:
    """The help of a command with a dataclass of `options`, but for the keys to `exclude`."""
    first, *others = usages
    lines = [
        *_paragraphs(description),
        f"Usage: {first}",
        *(f"       {usage}" for usage in others),
    ]
    if options is not None:
        entries = ((o, v) for o, v in iter_options(options) if o.key not in exclude)
        lines += ["", "Options", *_entries(entries)]
    return "\n".join([*lines, "", EXIT_STATUS])


def _paragraphs(description: str) -> list[str]:
    paragraphs = textwrap.dedent(description).strip().split("\n\n")
    return [line for p in paragraphs for line in (*textwrap.wrap(p, WIDTH), "")]


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


def _select(defaults: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        defaults = defaults[name]
    return defaults


def _summary(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]


def _schemas(group: str) -> Mapping[str, type]:
    return schemas(group) if group in SCHEMA_GROUPS else {"default": FIXED[group]}
