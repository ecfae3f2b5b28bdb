"""From a SOURCE argument and OPTION=VALUE arguments to the options of its format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worldmodel.config.arguments import parse_options
from worldmodel.config.data_sources import dataset_errors, reads_files, source_option
from worldmodel.config.registry import entries
from worldmodel.data.readers.files import matching_files
from worldmodel.errors import ConfigError, DataError, did_you_mean, raise_config_errors
from worldmodel.system.storage import user_path

PREFIX = "data."  # of the options of a format, which may be omitted here


def endings() -> dict[str, str]:
    """Ending of a file -> its format."""
    readers = entries("data").items()
    return {end: name for name, entry in readers for end in entry.details.get("endings", ())}


def accepted() -> str:
    """Describes what a SOURCE may be."""
    named = {name: source_option(entry) for name, entry in entries("data").items()}
    folders = [name for name, entry in entries("data").items() if entry.details.get("recognizes")]
    return (
        f"a file, a folder or a glob pattern of files that end in {', '.join(endings())}, "
        f"a folder of {' or '.join(folders)}, or one of "
        f"{', '.join(f'{name}:{key.upper()}' for name, key in named.items() if key != 'path')}"
    )


class Source(NamedTuple):
    """A dataset on the command line: its format, and the option that names it."""

    format: str
    option: str
    value: str

    @property
    def name(self) -> str:
        """A name for the dataset that is valid as a folder."""
        value = self.value
        if self.option == "path":
            path = user_path(value)
            while _is_pattern(path):
                path = path.parent
            value = path.resolve().stem if path.is_file() else path.resolve().name
        return re.sub(r"[^\w.+-]+", "-", value).strip("-.")[:100] or "dataset"


def parse_source(word: str) -> Source:
    """Parses a SOURCE argument. Raises DataError, which lists what is accepted."""
    prefix, colon, value = word.partition(":")
    if colon and prefix in entries("data"):
        key = source_option(entries("data")[prefix])
        if not value:
            raise DataError(f"{word}: expected {prefix}:{key.upper()}")
        return Source(prefix, key, value)
    path = user_path(word)
    if not path.exists() and not _is_pattern(path):
        raise DataError(f"{word} does not exist{_hint(word)}\n  accepted: {accepted()}")
    return Source(_format(path), "path", word)


def _hint(word: str) -> str:
    """A suggestion for an argument that names no file."""
    prefix, colon, _ = word.partition(":")
    if colon and (close := did_you_mean(prefix, entries("data"))):
        return close
    if re.fullmatch(r"[\w./-]+-v\d+", word):  # such as CartPole-v1
        others = [name for name, entry in entries("data").items() if not reads_files(entry)]
        return f" (did you mean {' or '.join(repr(f'{name}:{word}') for name in others)}?)"
    folder = user_path(word).parent
    return did_you_mean(word, map(str, folder.iterdir())) if folder.is_dir() else ""


def _format(path: Path) -> str:
    """The format of a file, a folder or a pattern. Raises DataError for none or several."""
    if path.is_dir():
        for name, entry in entries("data").items():
            if (recognizes := entry.details.get("recognizes")) and recognizes(path):
                return name
        files = [file for file in path.iterdir() if file.is_file()]
    else:
        files = [path] if path.is_file() else matching_files(str(path))
    by_ending = endings()
    formats = Counter(by_ending[end] for f in files if (end := f.suffix.lower()) in by_ending)
    if len(formats) == 1:
        _check_whole(path, files, next(iter(formats)))
        return next(iter(formats))
    if formats:
        counts = " and ".join(f"{name} ({count})" for name, count in formats.most_common())
        choices = " or ".join(f"{name}:{path}" for name in formats)
        raise DataError(f"{path} holds files of several formats: {counts}; choose one: {choices}")
    if path.is_file():
        choices = " or ".join(f"{name}:{path}" for name in dict.fromkeys(by_ending.values()))
        raise DataError(
            f"{path}: unknown file extension; accepted: {', '.join(by_ending)}\n"
            f"  or name the format: {choices}"
        )
    raise DataError(f"{path} holds no dataset\n  accepted: {accepted()}")


def _check_whole(path: Path, files: Sequence[Path], found: str) -> None:
    """Raises DataError for files that are parts of a dataset of another format."""
    for name, entry in entries("data").items():
        root_of = entry.details.get("root_of")
        if name != found and root_of and (root := root_of(files[0])):
            raise DataError(
                f"{path}: files of a {name} dataset; choose one: {root} for all of it, or "
                f"{found}:{path}"
            )


def _is_pattern(path: Path) -> bool:
    return not path.exists() and any(mark in str(path) for mark in "*?[")


def parse_source_options(word: str, words: Sequence[str], options: Any) -> Source:
    """Sets `options.data` to the options of the format of SOURCE `word`, and all options of the
    command from OPTION=VALUE `words`. Raises ConfigError that lists every error.
    """
    source = parse_source(word)
    options.data = entries("data")[source.format].options()
    setattr(options.data, source.option, source.value)
    try:
        given = parse_options(words, options, shorthand=PREFIX)
    except ConfigError as error:
        names = entries("data")[source.format].details.get("columns")
        present = names(options.data) if names and "needs a value" in str(error) else ""
        raise ConfigError(f"{error}\n{present}" if present else str(error)) from error
    raise_config_errors(
        f"{key}={given[key]}: already set by SOURCE, {word}"
        for key in (PREFIX + "name", PREFIX + source.option)
        if key in given
    )
    raise_config_errors(dataset_errors(options.data))
    return source
