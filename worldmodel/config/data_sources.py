"""Which options name the data of each format, as its reader registered them."""

from __future__ import annotations

from collections.abc import Iterator

from worldmodel.config.groups import DataOptions
from worldmodel.config.option import iter_options
from worldmodel.config.registry import Entry, entry_of


def source_option(entry: Entry) -> str:
    """The option that VALUE sets where a source is given as FORMAT:VALUE."""
    return entry.details.get("source", "path")


def reads_files(entry: Entry) -> bool:
    """Whether `path` names the data of a format."""
    return any(entry.details.get(key) for key in ("endings", "recognizes"))


def dataset_errors(options: DataOptions) -> Iterator[str]:
    """Yields what is wrong with the options of a dataset together, each of which is valid."""
    entry = entry_of("data", options)
    names = dict.fromkeys(["path"] * reads_files(entry) + [source_option(entry)])
    if not any(getattr(options, name) for name in names):
        help = [option.help for option, _ in iter_options(options) if option.key in names]
        keys = " or ".join(f"data.{name}" for name in names)
        yield f"{keys} needs a value for data={entry.name}: {'; '.join(help)}"
    yield from options.errors()
