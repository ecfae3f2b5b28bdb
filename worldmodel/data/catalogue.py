"""What there is to read: formats with their options, behaviours, and the data sets found here."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from worldmodel.config import DataOptions
from worldmodel.config.option import format_value, iter_options
from worldmodel.config.registry import schemas
from worldmodel.data.behaviours import BEHAVIOURS
from worldmodel.data.readers.tfds import read_metadata
from worldmodel.data.rlds_writer import CARD
from worldmodel.data.sources import PREFIX, PREPARED
from worldmodel.errors import UserError


def catalogue(folder: Path) -> Iterator[str]:
    """Lines that name the formats, the behaviours, and the data sets in `folder` and of Minari."""
    common = {option.key for option, _ in iter_options(DataOptions())}
    yield "Formats (data=NAME), and the options that only they have"
    for name, schema in schemas("data").items():
        yield f"  {name:10s} {schema.__doc__}"
        yield from (f"      {line}" for line in describe_options(schema(), leave_out=common))
    yield "\nOptions of all formats"
    yield from (f"      {line}" for line in describe_options(DataOptions(), leave_out={"name"}))
    yield "\nBehaviour policies of data=gymnasium"
    yield from (f"  {name:20s} {_first_sentence(b)}" for name, b in BEHAVIOURS.items())
    yield f"\nData sets in {folder}"
    yield from [f"  {line}" for line in _native_sets(folder)] or ["  none"]
    if importlib.util.find_spec("minari") is not None:
        yield "\nLocal Minari data sets"
        yield from [f"  {line}" for line in _minari_sets()] or ["  none"]


def describe_options(
    options: Any, prefix: str = PREFIX, leave_out: Container[str] = ()
) -> Iterator[str]:
    """A line for each option: its value, what it does and what it accepts."""
    for option, value in iter_options(options):
        if option.key not in leave_out:
            default = "(required)" if value == MISSING else format_value(value)
            yield f"{prefix}{option.key} = {default}: {option.help} ({option.accepts})"


def _first_sentence(documented: Any) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def _native_sets(folder: Path) -> Iterator[str]:
    """A line for each prepared set below `folder`; hidden folders are being written."""
    for info in sorted(folder.glob(f"**/{PREPARED}")):
        place = info.parent
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue
        yield f"{place}: {_size(place / CARD)}{_environment(place)}"


def _size(path: Path) -> str:
    try:
        made = json.loads(path.read_text())
        return f"{made['episodes']:,} episodes, {made['transitions']:,} transitions"
    except FileNotFoundError:
        return f"no {path.name}; inspect it"
    except (OSError, ValueError, KeyError, TypeError):
        return f"its {path.name} cannot be read"


def _environment(place: Path) -> str:
    try:
        name = read_metadata(place).get("environment")
    except UserError as error:
        return f"; {str(error).splitlines()[0]}"
    return f" of {name}" if name else ""


def _minari_sets() -> Iterator[str]:
    import minari

    try:
        found = minari.list_local_datasets()
    except Exception as error:  # whatever a damaged set makes Minari raise
        yield f"Minari cannot list them: {error}"
        return
    for name, set_ in found.items():
        size = f"{set_['total_episodes']:,} episodes, {set_['total_steps']:,} transitions"
        yield f"minari:{name}: {size}"
