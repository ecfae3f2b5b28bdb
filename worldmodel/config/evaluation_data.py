"""What a checkpoint is judged on where that is not its run's own logs: `evaluation.data`, options
of a data source by name.

They stand on top of the run's own data options; `format` names another format, whose options then
start from their defaults. Nothing here imports JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from worldmodel.config import Config, DataOptions
from worldmodel.config.registry import schemas
from worldmodel.config.values import iter_options, raise_if_invalid, unknown_key
from worldmodel.errors import did_you_mean

FORMAT = "format"
INHERITED_OPTIONS = ("environment", "cache", "cache_dir")  # of the run, whatever the format is
PREFIX = "evaluation.data."


def evaluation_data_options(config: Config) -> DataOptions:
    """The options of the data that a checkpoint is judged on. Raises ConfigError."""
    given = config.evaluation.data or {}
    raise_if_invalid(data_errors(config.data, given))
    return _made(config.data, given)


def data_errors(own: DataOptions, given: Mapping[str, Any], prefix: str = PREFIX) -> Iterator[str]:
    """What is wrong with the options `given` on top of a run's `own`; `prefix` is what messages put
    before their names.
    """
    kinds = schemas("data")
    if (kind := given.get(FORMAT)) is not None and kind not in kinds:
        yield f"{prefix}{FORMAT}={kind}: accepts one of {', '.join(kinds)}{did_you_mean(str(kind), kinds)}"
        return
    known = {option.key: option for option, _ in iter_options(_base(own, kind), prefix)}
    known.pop(f"{prefix}name")  # only what a run's folder is called by
    values = {prefix + key: value for key, value in given.items() if key != FORMAT}
    found = [
        known[key].error_in(known[key].convert(value)) if key in known else unknown_key(key, known)
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
    return schema(**{key: getattr(own, key) for key in INHERITED_OPTIONS})


def _made(own: DataOptions, given: Mapping[str, Any]) -> DataOptions:
    base = _base(own, given.get(FORMAT))
    known = {option.key: option for option, _ in iter_options(base)}
    values = {key: known[key].convert(value) for key, value in given.items() if key != FORMAT}
    return dataclasses.replace(base, **values)
