"""The commands of `python -m worldmodel.data`: inspect, convert, list. None of them needs JAX."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldmodel.config import DataOptions, option
from worldmodel.config.registry import schemas
from worldmodel.config.values import format_value
from worldmodel.data import sources
from worldmodel.data.card import WINDOWS, build_card, render
from worldmodel.data.catalogue import catalogue, describe_options
from worldmodel.data.normalization import resolve_normalization
from worldmodel.data.quality import quality_warnings
from worldmodel.data.readers import load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.rlds_writer import CARD, write_rlds
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError, DataError, did_you_mean

HELP = ("-h", "--help")
WIDTH = 100  # of the help
SOURCES = textwrap.fill(
    f"SOURCE is {sources.accepted()}. Options are those of the format, as in train.py, with or "
    "without `data.` before them.",
    WIDTH,
)


@dataclass
class InspectOptions:
    """What `inspect` has beside the options of the format."""

    out: str | None = option(None, "folder for the card and the plots (none: inspect/NAME)")
    window: int | None = option(None, "one more length of windows to count, in rows", low=2)


@dataclass
class ConvertOptions:
    """`convert` has the options of the format alone."""


class Command(NamedTuple):
    """What a command does, the words it takes, and its own options."""

    action: Callable[[Sequence[str]], int]
    words: str
    summary: str
    options: Any = None

    def usage(self, name: str) -> str:
        return f"python -m worldmodel.data {name} {self.words}"


def run(arguments: Sequence[str]) -> int:
    """Runs the command that the words name. Raises UserError for a user's mistake."""
    words = [word for word in arguments if word not in HELP]
    helped = len(words) < len(arguments)
    if not words:
        print(usage())
        return 0 if helped else 2
    name, *rest = words
    if name not in COMMANDS:
        raise ConfigError(
            f"{name}: no such command{did_you_mean(name, COMMANDS)}; accepted: {', '.join(COMMANDS)}"
        )
    if helped:
        print(command_help(name, rest))
        return 0
    return COMMANDS[name].action(rest)


def _take(words: Sequence[str], names: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    """The first words, one for each of `names`, and the rest. Raises ConfigError if any is missing
    or an option.
    """
    first = list(words[: len(names)])
    given = [sources.is_source(word) for word in first] + [False]
    missing = given.index(False)
    if missing < len(names):
        usage = COMMANDS[command].usage(command)
        raise ConfigError(f"{command} needs {names[missing]}\n  usage: {usage}")
    return first, list(words[len(names) :])


# -------------------------------------------------------------------------------------------- help


def usage() -> str:
    """What all commands do."""
    calls = "\n       ".join(command.usage(name) for name, command in COMMANDS.items())
    does = "\n".join(f"{name:10s}{command.summary}" for name, command in COMMANDS.items())
    return (
        f"Usage: {calls}\n\n{does}\n\n{SOURCES}\n\n"
        "Every option: python -m worldmodel.data list\n"
        "Those of one source: python -m worldmodel.data inspect SOURCE --help"
    )


def command_help(name: str, words: Sequence[str]) -> str:
    """What one command does and accepts; if SOURCE is among the words, also its options."""
    command = COMMANDS[name]
    lines = [f"Usage: {command.usage(name)}", "", f"{name} {command.summary}."]
    if command.options is None:
        return "\n".join(lines)
    lines += ["", SOURCES]
    if own := list(describe_options(command.options(), prefix="")):
        lines += ["", f"Options of {name}", *_wrapped(own)]
    if words:
        where = sources.parse_source(words[0])
        schema = schemas("data")[where.format]
        theirs = describe_options(schema(), leave_out=("name", where.option))
        lines += ["", f"Options of data={where.format}", *_wrapped(theirs)]
    return "\n".join(lines)


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [
        textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 6) for line in lines
    ]


# ----------------------------------------------------------------------------------------- inspect


def inspect(words: Sequence[str]) -> int:
    """Prints the card of a source and what looks odd, and writes card and plots into a folder."""
    from worldmodel.data import plots

    (word,), rest = _take(words, ["SOURCE"], "inspect")
    own = InspectOptions()
    where, data = sources.parse_options(word, rest, own)
    folder = Path(own.out).expanduser() if own.out else Path("inspect") / where.name
    _make(folder)  # before the logs are read, which may take long
    logs = load(data)
    columns = sources.column_names(data)
    windows = sorted({*WINDOWS, own.window} - {None})
    made = build_card(logs, windows, columns)
    odd = quality_warnings(made, resolve_normalization(data, logs))
    console = Console()
    console.print(render(made))
    _tell(console, odd)
    (folder / CARD).write_text(json.dumps(made, indent=2) + "\n")
    drawn = plots.draw(logs, folder, where.name, columns)
    console.print(f"card and {len(drawn)} plots in {folder}", highlight=False, markup=False)
    return 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be made: {error.strerror}") from error


def _tell(console: Console, found: Sequence[str]) -> None:
    if not found:
        console.print("Nothing looks odd.\n")
        return
    table = Table.grid(padding=(0, 1))
    for text in found:
        table.add_row("-", Text(text))
    console.print(Text(f"What looks odd ({len(found)})", style="bold"), table, "", sep="\n")


# ----------------------------------------------------------------------------------------- convert


def convert(words: Sequence[str]) -> int:
    """Writes a source in the native form, whole or not at all, and says how to train on it."""
    (word, target), rest = _take(words, ["SOURCE", "DEST"], "convert")
    where, data = sources.parse_options(word, rest, ConvertOptions())
    folder = Path(target).expanduser()
    refusal = DataError(f"{folder} is not empty; accepted: a DEST that does not exist yet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise refusal
    _make(folder.parent)
    logs = load(data)
    scaling = resolve_normalization(data, logs)
    data.environment = data.environment or sources.recorded_environment(data)
    known = {"environment": data.environment} if data.environment else {}
    try:
        write_rlds(logs, folder, where.name, known)
    except FileExistsError:
        raise refusal from None
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error
    _tell(Console(), quality_warnings(json.loads((folder / CARD).read_text()), scaling))
    print(f"{folder}: {logs.num_episodes:,} episodes, {logs.num_transitions:,} transitions")
    print(shlex.join(_training(where, data, target, logs)))
    return 0


def _training(
    where: sources.Source, data: DataOptions, target: str, logs: Trajectories
) -> Iterator[str]:
    """The words of the command that trains on what was converted."""
    yield from ("python", "train.py", "data=tfds", f"data.path={target}")
    if data.environment:
        yield f"data.environment={data.environment}"
    if data.normalize != TFDSData().normalize:
        yield f"data.normalize={format_value(data.normalize)}"
    if logs.rewards is None:
        yield "policy=none"
    yield f"name={where.name}"


# -------------------------------------------------------------------------------------------- list


def list_datasets(words: Sequence[str]) -> int:
    """Prints formats with their options, behaviours, and the data sets in a folder."""
    if len(words) > 1:
        raise ConfigError(f"list takes one FOLDER, not {len(words)}")
    folder = Path(words[0] if words else "datasets").expanduser()
    if words and not folder.is_dir():
        raise DataError(f"{folder} is no folder; accepted: a folder of data sets")
    for line in catalogue(folder):
        print(line)
    return 0


COMMANDS = {
    "inspect": Command(
        inspect,
        "SOURCE [OPTION=VALUE ...]",
        "prints a card of the logs with what looks odd about them, and draws them",
        InspectOptions,
    ),
    "convert": Command(
        convert,
        "SOURCE DEST [OPTION=VALUE ...]",
        "writes logs in the native form: RLDS in TFDS, stored as ArrayRecord",
        ConvertOptions,
    ),
    "list": Command(
        list_datasets,
        "[FOLDER]",
        "names the formats with their options, and the data sets in FOLDER (datasets)",
    ),
}
