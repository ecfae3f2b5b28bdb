"""The commands of `python -m worldmodel.data`. None of them needs JAX."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldmodel.config import DataOptions, option
from worldmodel.config import help as help_text
from worldmodel.config.arguments import HELP_FLAGS, Arguments, quote_value
from worldmodel.config.option import format_value, iter_options
from worldmodel.config.registry import entries, entry_of, schemas
from worldmodel.data import sources
from worldmodel.data.card import WINDOWS, build_card
from worldmodel.data.card_tables import render
from worldmodel.data.consistency import notes
from worldmodel.data.normalization import resolve_normalization
from worldmodel.data.quality import quality_warnings
from worldmodel.data.readers import load
from worldmodel.data.replay import ReplayOptions, replay
from worldmodel.data.rlds_writer import CARD, NATIVE_FORMAT, write_rlds
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError, DataError, did_you_mean, printable
from worldmodel.system.storage import user_path

SOURCES = (
    f"SOURCE is {sources.accepted()}. Options are those of the format, as in train.py, with or "
    "without `data.` before them; `inspect SOURCE --help` lists them."
)


@dataclass
class InspectOptions:
    """Options of `inspect`."""

    data: DataOptions = MISSING
    output_dir: str | None = option(None, "folder for the card and the plots (null: inspect/NAME)")
    window: int | None = option(None, "one more window length to count, in steps", low=2)


@dataclass
class ConvertOptions:
    """Options of `convert`: those of the format."""

    data: DataOptions = MISSING


class Command(NamedTuple):
    """A command: its function, its positional arguments, and its options."""

    action: Callable[[Arguments], int]
    words: str
    summary: str
    options: type | None = None

    def usage(self, name: str) -> str:
        return f"python -m worldmodel.data {name} {self.words}"


def run(words: Sequence[str]) -> int:
    """Runs the command that the words name; returns the exit status. Raises UserError."""
    arguments = Arguments.parse(words, positional=True)
    if not arguments.positional:
        print(usage())
        return 0 if arguments.has(HELP_FLAGS) else 2
    name = arguments.positional.pop(0)
    if name not in COMMANDS:
        raise ConfigError(
            f"{name}: unknown command; accepts {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}"
        )
    if arguments.has(HELP_FLAGS):
        print(command_help(name, arguments.positional))
        return 0
    return COMMANDS[name].action(arguments)


# -------------------------------------------------------------------------------------------- help


def usage() -> str:
    """Returns the help of all commands."""
    calls = "\n       ".join(command.usage(name) for name, command in COMMANDS.items())
    summaries = "\n".join(f"{name:10s}{command.summary}" for name, command in COMMANDS.items())
    return f"Usage: {calls}\n\n{summaries}\n\n{textwrap.fill(SOURCES, help_text.WIDTH)}"


def command_help(name: str, words: Sequence[str]) -> str:
    """Returns the help of a command, with the options of SOURCE if it is given."""
    command = COMMANDS[name]
    description, options, set_by_source = f"{name} {command.summary}.", None, []
    if command.options is not None:
        description, options = f"{description}\n\n{SOURCES}", command.options()
        set_by_source = ["data"]
        if words:
            source = sources.parse_source(words[0])
            options.data = schemas("data")[source.format]()
            set_by_source = ["data.name", f"data.{source.option}"]
    return help_text.command(description, [command.usage(name)], options, set_by_source)


# ----------------------------------------------------------------------------------------- inspect


def inspect(arguments: Arguments) -> int:
    """Prints the card of a dataset and warnings, and writes the card and plots into a folder."""
    from worldmodel.data import plots

    (word,) = arguments.take("SOURCE", usage=COMMANDS["inspect"].usage("inspect"))
    options = InspectOptions()
    source, data = sources.parse_source_options(word, arguments.options, options), options.data
    folder = user_path(options.output_dir or f"inspect/{source.name}")
    _create(folder)  # before the dataset is read, which may take long
    dataset = load(data, warn=False)  # they are among the warnings below
    columns = data.column_names()
    windows = sorted({*WINDOWS, options.window or WINDOWS[0]})
    card = build_card(dataset, windows, columns)
    console = Console()
    console.print(render(card))
    scaling = resolve_normalization(data, dataset)
    _print_warnings(console, [*notes(dataset), *quality_warnings(card, scaling)])
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
    paths = plots.draw(dataset, folder, source.name, columns)
    console.print(
        Text(printable(f"card and {len(paths)} plots in {folder}")), "to train on it:", sep="\n"
    )
    print(printable(_training(data, source.name, dataset)))
    return 0


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be created: {error.strerror}") from error


def _print_warnings(console: Console, warnings: Sequence[str]) -> None:
    if not warnings:
        console.print("No warnings.\n")
        return
    table = Table.grid(padding=(0, 1))
    for text in warnings:
        table.add_row("-", Text(printable(text)))
    console.print(Text(f"Warnings ({len(warnings)})", style="bold"), table, "", sep="\n")


# ----------------------------------------------------------------------------------------- convert


def convert(arguments: Arguments) -> int:
    """Writes a dataset in the native format, atomically, and prints the command to train on it."""
    word, target = arguments.take("SOURCE", "DEST", usage=COMMANDS["convert"].usage("convert"))
    options = ConvertOptions()
    source, data = sources.parse_source_options(word, arguments.options, options), options.data
    folder = user_path(target)
    not_empty = DataError(f"{folder} is not empty; accepted: a DEST that does not exist yet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise not_empty
    _create(folder.parent)
    dataset = load(data, warn=False)  # they are among the warnings below
    scaling = resolve_normalization(data, dataset)
    data.environment = data.environment or data.recorded_environment()
    metadata: dict[str, Any] = {"environment": data.environment} if data.environment else {}
    if metadata and data.environment_options:
        metadata["environment_options"] = data.environment_options
    try:
        write_rlds(dataset, folder, source.name, metadata)
    except FileExistsError:
        raise not_empty from None
    card = json.loads((folder / CARD).read_text())
    _print_warnings(Console(), [*notes(dataset), *quality_warnings(card, scaling)])
    counts = f"{dataset.num_episodes:,} episodes, {dataset.num_transitions:,} transitions"
    print(f"{printable(folder)}: {counts}")
    native = schemas("data")[NATIVE_FORMAT](path=target, environment=data.environment)
    native.normalize, native.environment_options = data.normalize, data.environment_options
    print(printable(_training(native, source.name, dataset)))
    return 0


def _training(data: DataOptions, name: str, dataset: Trajectories) -> str:
    """The command that trains on a dataset: the options that differ from their defaults."""
    words = ["python", "train.py", f"data={entry_of('data', data).name}"]
    defaults = dict(iter_options(type(data)(), "data."))
    given = {o.key: v for o, v in iter_options(data, "data.") if v != defaults[o]}
    words += [f"{key}={quote_value(value)}" for key, value in given.items()]
    if dataset.rewards is None:
        words.append("policy=none")
    return shlex.join([*words, f"name={quote_value(name)}"])


# -------------------------------------------------------------------------------------------- list


def list_datasets(arguments: Arguments) -> int:
    """Prints the formats with their options, and the datasets in a folder."""
    words = arguments.take("[FOLDER]", usage=COMMANDS["list"].usage("list"))
    if arguments.options:
        raise ConfigError(f"{arguments.options[0]}: `list` has no options")
    folder = user_path(words[0] if words else "datasets")
    if words and not folder.is_dir():
        raise DataError(f"{folder}: not a folder; accepts a folder of datasets")
    print(*(printable(line, keep="\n") for line in _list_lines(folder)), sep="\n")
    return 0


def _list_lines(folder: Path) -> Iterator[str]:
    """The formats with their options, and what each format lists about `folder`."""
    common = {opt.key for opt, _ in iter_options(DataOptions())}
    yield "Formats (data=NAME) and their own options"
    for name, entry in entries("data").items():
        yield f"  {name:10s} {entry.options.__doc__}"
        yield from _option_lines(entry.options(), leave_out=common)
    yield "\nOptions of all formats"
    yield from _option_lines(DataOptions(), leave_out={"name"})
    for entry in entries("data").values():
        if listing := entry.details.get("listing"):
            yield ""
            yield from listing(folder)


def _option_lines(options: Any, leave_out: Container[str]) -> Iterator[str]:
    """A line per option: its value, what it does and what it accepts."""
    for opt, value in iter_options(options):
        if opt.key not in leave_out:
            default = "(required)" if value == MISSING else format_value(value)
            yield f"      {sources.PREFIX}{opt.key} = {default}: {opt.help} ({opt.accepts})"


COMMANDS = {
    "inspect": Command(
        inspect,
        "SOURCE [OPTION=VALUE ...]",
        "prints a summary of a dataset with warnings, and plots it",
        InspectOptions,
    ),
    "convert": Command(
        convert,
        "SOURCE DEST [OPTION=VALUE ...]",
        "writes a dataset in the native format: TFDS in the RLDS layout, as ArrayRecord",
        ConvertOptions,
    ),
    "replay": Command(
        replay,
        "SOURCE environment=ID [OPTION=VALUE ...]",
        "replays logged actions in the real environment, and tells whether both agree",
        ReplayOptions,
    ),
    "list": Command(
        list_datasets,
        "[FOLDER]",
        "lists the formats with their options, and the datasets in FOLDER (default: datasets)",
    ),
}
