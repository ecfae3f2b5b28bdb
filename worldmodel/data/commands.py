"""The commands of `python -m worldmodel.data`: inspect, convert, list. None of them needs JAX."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from worldmodel.checks import walk
from worldmodel.config import SCHEMAS, DataOptions, option
from worldmodel.data import sources
from worldmodel.data.behaviours import BEHAVIOURS
from worldmodel.data.card import WINDOWS, card, render
from worldmodel.data.findings import findings
from worldmodel.data.native import CARD, write
from worldmodel.data.normalization import scalings
from worldmodel.data.readers import load
from worldmodel.errors import ConfigError, DataError, nearest

USAGE = f"""Usage: python -m worldmodel.data inspect SOURCE [OPTION=VALUE ...]
       python -m worldmodel.data convert SOURCE DEST [OPTION=VALUE ...]
       python -m worldmodel.data list [FOLDER]

inspect   prints a card of the logs with what looks odd about them, and draws them
convert   writes them in the native form: RLDS in TFDS, stored as ArrayRecord
list      names the formats with their options, and the data sets there are in FOLDER (datasets)

SOURCE is {sources.ACCEPTED}.
Options are those of the format, as in train.py, with or without `data.` before them:
`python -m worldmodel.data list` names them."""
HELP = ("-h", "--help")


@dataclass
class InspectOptions:
    """What `inspect` has beside the options of the format."""

    out: str | None = option(None, "folder for the card and the plots (none: inspect/NAME)")
    window: int | None = option(None, "one more length of windows to count, in rows", low=2)


@dataclass
class ConvertOptions:
    """`convert` has the options of the format alone."""


def run(arguments: Sequence[str]) -> int:
    """Runs the command that the words name. Raises UserError for a user's mistake."""
    if not arguments or any(word in HELP for word in arguments):
        print(USAGE)
        return 0 if arguments else 2
    name, *words = arguments
    if name not in COMMANDS:
        raise ConfigError(
            f"{name}: no such command{nearest(name, COMMANDS)}; accepted: {', '.join(COMMANDS)}"
        )
    return COMMANDS[name](words)


def _take(words: Sequence[str], names: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    """The first words, one for each of `names`, and the rest. Raises ConfigError if any is missing
    or an option.
    """
    first = list(words[: len(names)])
    missing = names[len(first)] if len(first) < len(names) else None
    exists = [sources.is_place(word) for word in first]
    if missing is None and not all(exists):
        missing = names[exists.index(False)]
    if missing is not None:
        raise ConfigError(f"{command} needs {missing}\n{USAGE.splitlines()[0][7:]}")
    return first, list(words[len(names) :])


# ----------------------------------------------------------------------------------------- inspect


def inspect(words: Sequence[str]) -> int:
    """Prints the card of a source and what looks odd, and writes card and plots into a folder."""
    from worldmodel.data import plots

    (word,), rest = _take(words, ["SOURCE"], "inspect")
    own = InspectOptions()
    where, data = sources.options(word, rest, own)
    logs = load(data)
    columns = sources.columns(data)
    windows = sorted({*WINDOWS, own.window} - {None})
    made = card(logs, windows, columns)
    console = Console(soft_wrap=False)
    console.print(render(made))
    _tell(console, findings(made, scalings(data, logs)))
    folder = Path(own.out).expanduser() if own.out else Path("inspect") / where.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).write_text(json.dumps(made, indent=2) + "\n")
    drawn = plots.draw(logs, folder, where.name, columns)
    console.print(f"card and {len(drawn)} plots in {folder}", highlight=False, markup=False)
    return 0


def _tell(console: Console, found: Sequence[str]) -> None:
    if not found:
        console.print("Nothing looks odd.\n")
        return
    console.print(f"[bold]What looks odd ({len(found)})[/]")
    for text in found:
        console.print(f"- {escape(text)}", highlight=False)
    console.print()


# ----------------------------------------------------------------------------------------- convert


def convert(words: Sequence[str]) -> int:
    """Writes a source in the native form, whole or not at all, and says how to train on it."""
    (word, target), rest = _take(words, ["SOURCE", "DEST"], "convert")
    where, data = sources.options(word, rest, ConvertOptions())
    folder = Path(target).expanduser()
    refusal = DataError(f"{folder} is not empty; accepted: a DEST that does not exist yet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise refusal
    logs = load(data)
    known = {"environment": data.environment} if data.environment else {}
    try:
        write(logs, folder, where.name, known)
    except FileExistsError:
        raise refusal from None
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error
    judged = f" data.environment={data.environment}" if data.environment else ""
    no_reward = "" if logs.rewards is not None else " policy=none"
    print(
        f"{folder}: {logs.num_episodes:,} episodes, {logs.num_transitions:,} transitions\n"
        f"python train.py data=tfds data.path={shlex.quote(target)}{judged}{no_reward} "
        f"name={where.name}"
    )
    return 0


# -------------------------------------------------------------------------------------------- list


def list_known(words: Sequence[str]) -> int:
    """Prints formats with their options, behaviours, and the data sets in a folder."""
    if len(words) > 1:
        raise ConfigError(f"list takes one FOLDER, not {len(words)}")
    folder = Path(words[0] if words else "datasets").expanduser()
    if words and not folder.is_dir():
        raise DataError(f"{folder} is no folder; accepted: a folder of data sets")
    print("Formats (data=NAME), and what only they have")
    common = {o.key for o, _ in walk(DataOptions())}
    for name, schema in SCHEMAS["data"].items():
        print(f"  {name:10s} {schema.__doc__}")
        for o, _ in walk(schema()):
            if o.key not in common:
                print(f"      data.{o.key}: {o.help}")
    print("\nOptions of all formats")
    for o, _ in walk(DataOptions()):
        print(f"      data.{o.key}: {o.help}")
    print(f"\nBehaviour policies of data=gymnasium: {', '.join(BEHAVIOURS)}")
    print(f"\nData sets in {folder}")
    found = [*_native_sets(folder), *_minari_sets()]
    print("\n".join(f"  {line}" for line in found) or "  none")
    return 0


def _native_sets(folder: Path) -> Iterator[str]:
    """A line for each set with a card, wherever it lies below `folder`."""
    for path in sorted(info.with_name(CARD) for info in folder.glob(f"**/{sources.PREPARED}")):
        try:
            made: dict[str, Any] = json.loads(path.read_text())
            size = f"{made['episodes']:,} episodes, {made['transitions']:,} transitions"
            yield f"{path.parent}: {size}, from {made['source']}"
        except (OSError, ValueError, KeyError, TypeError):
            yield f"{path.parent}: its {CARD} cannot be read"


def _minari_sets() -> Iterator[str]:
    """A line for each local Minari set, if Minari is installed."""
    if importlib.util.find_spec("minari") is None:
        return
    import minari

    for name, found in minari.list_local_datasets().items():
        size = f"{found['total_episodes']:,} episodes, {found['total_steps']:,} transitions"
        yield f"minari:{name}: {size}"


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "inspect": inspect,
    "convert": convert,
    "list": list_known,
}
