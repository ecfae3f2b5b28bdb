"""What a checkpoint is judged on where that is not its run's own logs: `evaluation.data`, options
of a data source by name.

They stand on top of the run's own data options; `kind` names another format, whose options then
start from their defaults. Nothing here imports JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from worldmodel.config import Config, DataOptions
from worldmodel.config.registry import schemas
from worldmodel.config.values import refuse, unknown_key, walk
from worldmodel.errors import nearest

KIND = "kind"
KEPT = ("environment", "cache", "cache_dir")  # of the run, whatever the format is
PREFIX = "evaluation.data."


def judged_data(config: Config) -> DataOptions:
    """The options of the data that a checkpoint is judged on. Raises ConfigError."""
    given = config.evaluation.data or {}
    refuse(faults(config.data, given))
    return _made(config.data, given)


def faults(own: DataOptions, given: Mapping[str, Any], prefix: str = PREFIX) -> Iterator[str]:
    """What is wrong with the options `given` on top of a run's `own`; `prefix` is what messages put
    before their names.
    """
    kinds = schemas("data")
    if (kind := given.get(KIND)) is not None and kind not in kinds:
        yield f"{prefix}{KIND}={kind}: accepts one of {', '.join(kinds)}{nearest(str(kind), kinds)}"
        return
    known = {option.key: option for option, _ in walk(_base(own, kind), prefix)}
    known.pop(f"{prefix}name")  # only what a run's folder is called by
    values = {prefix + key: value for key, value in given.items() if key != KIND}
    found = [
        known[key].fault(known[key].convert(value)) if key in known else unknown_key(key, known)
        for key, value in values.items()
    ]
    found = [fault for fault in found if fault]
    yield from found
    if not found:
        made = _made(own, given)
        yield from made.check()


def _base(own: DataOptions, kind: str | None) -> DataOptions:
    """The options that those given stand on."""
    schema = schemas("data").get(kind, type(own))
    if schema is type(own):
        return own
    return schema(**{key: getattr(own, key) for key in KEPT})


def _made(own: DataOptions, given: Mapping[str, Any]) -> DataOptions:
    base = _base(own, given.get(KIND))
    known = {option.key: option for option, _ in walk(base)}
    values = {key: known[key].convert(value) for key, value in given.items() if key != KIND}
    return dataclasses.replace(base, **values)
