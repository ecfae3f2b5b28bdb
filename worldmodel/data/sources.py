"""From a word that says where logs are, and OPTION=VALUE words, to the options of their format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel.config import DataOptions
from worldmodel.config.arguments import parse_overrides, read_values
from worldmodel.config.io import assign
from worldmodel.config.registry import entries, schemas
from worldmodel.config.values import Option, iter_options, raise_if_invalid, unknown_key
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tfds import TFDSData, read_metadata
from worldmodel.errors import DataError, did_you_mean

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


def is_source(word: str) -> bool:
    """Whether a word names logs or a folder, and is no OPTION=VALUE."""
    return bool(word) and not re.match(r"[a-z_.]+=", word)


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


def parse_options(word: str, words: Sequence[str], own: Any) -> tuple[Source, DataOptions]:
    """The options of the format of SOURCE `word`, with the values that `words` give, checked.

    `own` is a dataclass of the options that the command itself has; they are set in place. Raises
    ConfigError that names every fault.
    """
    where = parse_source(word)
    data = schemas("data")[where.format]()
    mine = {option.key: option for option, _ in iter_options(own, PREFIX)}
    theirs = {option.key: option for option, _ in iter_options(data, PREFIX)}
    theirs.pop(PREFIX + "name")  # it is that of the format
    given, faults = given_values(words, theirs | mine)
    if (key := PREFIX + where.option) in given:
        faults.append(f"{where.option}={given.pop(key)}: SOURCE has said that: {word}")
    raise_if_invalid(faults)
    setattr(data, where.option, where.value)
    for key, value in given.items():
        assign(own if key in mine else data, key.removeprefix(PREFIX), value)
    raise_if_invalid(validate_data_options(data))
    return where, data


def given_values(
    words: Sequence[str], known: dict[str, Option]
) -> tuple[dict[str, Any], list[str]]:
    """The values that `OPTION=VALUE` words give `known` options, by key, and all faults."""
    overrides = parse_overrides([_prefixed(word) for word in words])
    lists = [o for o in overrides if o.is_sweep_override()]
    given, faults = read_values([o for o in overrides if o not in lists], known)
    for override in lists:
        key, text = override.key_or_group, override.get_value_string()
        is_list = key in known and known[key].is_list
        hint = f"; a list is written {key}=[{text}]" if is_list else ""
        faults.append(
            f"{override.input_line}: one value is accepted{hint}"
            if key in known
            else unknown_key(key, known)
        )
    return given, faults


def _prefixed(word: str) -> str:
    whole = word.startswith((PREFIX, "+", "~", "hydra.")) or "=" not in word
    return word if whole else PREFIX + word


def validate_data_options(data: DataOptions) -> Iterator[str]:
    """What train.py would refuse in these options."""
    faults = [f for option, value in iter_options(data, PREFIX) if (f := option.error_in(value))]
    yield from faults or data.check()


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
