"""From a word that says where logs are, and OPTION=VALUE words, to the options of their format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel.config import DataOptions
from worldmodel.config.arguments import parse_options
from worldmodel.config.registry import entries, schemas
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tfds import TFDSData, read_metadata
from worldmodel.errors import DataError, did_you_mean, raise_config_errors

PREPARED = "dataset_info.json"  # marks a folder that TFDS prepared
PREFIX = "data."  # of the options of a data source, which may be left out here


def prefixes() -> dict[str, str]:
    """Format -> the option that says where its logs are: a source may be FORMAT:VALUE of it."""
    return {name: entry.details["source"] for name, entry in entries("data").items()}


def endings() -> dict[str, str]:
    """Ending of a file -> its format."""
    readers = entries("data").items()
    return {end: name for name, entry in readers for end in entry.details.get("endings", ())}


def accepted() -> str:
    """What a SOURCE may be, in words."""
    named = {name: what for name, what in prefixes().items() if what != "path"}
    return (
        "a folder that TFDS prepared, "
        f"a file, a folder or a pattern of files that end in {', '.join(endings())}, "
        f"or one of {', '.join(f'{name}:{what.upper()}' for name, what in named.items())}"
    )


class Source(NamedTuple):
    """Logs as the command line names them: their format, and the option that tells where."""

    format: str
    option: str
    value: str

    @property
    def name(self) -> str:
        """What to call the logs, fit for a folder."""
        value = self.value
        if self.option == "path":
            path = Path(value).expanduser()
            path = path.parent if _is_pattern(path) else path
            value = path.resolve().stem if path.is_file() else path.resolve().name
        return re.sub(r"[^\w.+-]+", "-", value).strip("-.") or "logs"


def parse_source(word: str) -> Source:
    """Reads a SOURCE word. Raises DataError, which says what is accepted."""
    prefix, colon, what = word.partition(":")
    if colon and prefix in prefixes():
        if not what:
            raise DataError(f"{word}: expected {prefix}:{prefixes()[prefix].upper()}")
        return Source(prefix, prefixes()[prefix], what)
    path = Path(word).expanduser()
    if not path.exists() and not _is_pattern(path):
        raise DataError(f"{word} does not exist{_hint(word)}\n  accepted: {accepted()}")
    return Source(_format(path), "path", word)


def _hint(word: str) -> str:
    """What may have been meant by a word that names no file."""
    prefix, colon, what = word.partition(":")
    if colon and (close := did_you_mean(prefix, prefixes())):
        return close
    if re.fullmatch(r"[\w./-]+-v\d+", word):
        return f" (did you mean 'gymnasium:{word}' or 'minari:{word}'?)"
    folder = Path(word).expanduser().parent
    return did_you_mean(word, map(str, folder.iterdir())) if folder.is_dir() else ""


def _format(path: Path) -> str:
    """The format of a file, a folder or a pattern. Raises DataError if it is none, or several."""
    if path.is_dir() and _holds_prepared(path):
        return "tfds"
    if path.is_dir():
        files = [file for file in path.iterdir() if file.is_file()]
    else:
        files = [path] if path.is_file() else list(path.parent.glob(path.name))
    known = endings()
    formats = Counter(known[end] for f in files if (end := f.suffix.lower()) in known)
    if len(formats) == 1:
        return next(iter(formats))
    if formats:
        held = " and ".join(f"{name} ({count})" for name, count in formats.most_common())
        ways = " or ".join(f"{name}:{path}" for name in formats)
        raise DataError(f"{path} holds files of several formats: {held}; say which: {ways}")
    if path.is_file():
        by_path = dict.fromkeys(known.values())
        raise DataError(
            f"{path}: its ending tells no format; accepted: {', '.join(endings())}\n"
            f"  or say which it is: {' or '.join(f'{name}:{path}' for name in by_path)}"
        )
    raise DataError(f"{path} holds no logs\n  accepted: {accepted()}")


def _holds_prepared(folder: Path) -> bool:
    """Whether a TFDS set is here, or below as TFDS nests them: DATA_DIR/NAME/CONFIG/VERSION."""
    return any(next(folder.glob(f"{d}{PREPARED}"), None) for d in ("", "*/", "*/*/", "*/*/*/"))


def _is_pattern(path: Path) -> bool:
    return not path.exists() and any(mark in path.name for mark in "*?[")


# ----------------------------------------------------------------------------------------- options


def parse_source_options(word: str, words: Sequence[str], options: Any) -> Source:
    """Sets `options.data` to the options of the format of SOURCE `word`, and all options of the
    command from OPTION=VALUE `words`. Raises ConfigError that lists every error.
    """
    source = parse_source(word)
    options.data = schemas("data")[source.format]()
    setattr(options.data, source.option, source.value)
    given = parse_options(words, options, shorthand=PREFIX)
    raise_config_errors(
        f"{key}={given[key]}: already set by SOURCE, {word}"
        for key in (PREFIX + "name", PREFIX + source.option)
        if key in given
    )
    raise_config_errors(options.data.errors())
    return source


def recorded_environment(data: DataOptions) -> str | None:
    """The environment that a native set says it was logged in; None for all other logs."""
    if not isinstance(data, TFDSData) or not data.path:
        return None
    return read_metadata(Path(data.path).expanduser()).get("environment")


def column_names(data: DataOptions) -> dict[str, list[str]]:
    """The names of the columns that vectors are made of, where the options tell them."""
    if not isinstance(data, TableData):
        return {}
    return {"observation": data.observations, "action": data.actions}
