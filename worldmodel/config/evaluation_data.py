"""The data that a checkpoint is evaluated on where it is not the run's own: `evaluation.data`,
options of a data source on top of the run's.

Its option `format` names another format, whose options then start from their defaults.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from worldmodel.config import Config, DataOptions
from worldmodel.config.data_sources import dataset_errors
from worldmodel.config.option import choice_error
from worldmodel.config.registry import schemas
from worldmodel.config.values import set_values
from worldmodel.errors import raise_config_errors

FORMAT = "format"
# Of the run, whatever the format is.
INHERITED_OPTIONS = (
    *("environment", "environment_options", "cache", "cache_dir"),
    *("image_size", "image_method"),
)
PREFIX = "evaluation.data."


def evaluation_data_options(config: Config) -> DataOptions:
    """Returns the options of the data that a checkpoint is evaluated on. Raises ConfigError."""
    options, errors = _build(config.data, config.evaluation.data or {})
    raise_config_errors(errors)
    return options


def data_errors(run_data: DataOptions, values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with `values` of `evaluation.data` on top of a run's own options."""
    return _build(run_data, values)[1]


def _build(run_data: DataOptions, values: Mapping[str, Any]) -> tuple[DataOptions, list[str]]:
    formats = schemas("data")
    name = values.get(FORMAT)
    if name is not None and name not in list(formats):
        return run_data, [choice_error(f"{PREFIX}{FORMAT}", name, formats)]
    options = copy.copy(run_data)
    if name is not None and formats[name] is not type(run_data):
        options = formats[name](**{key: getattr(run_data, key) for key in INHERITED_OPTIONS})
    given = {key: value for key, value in values.items() if key != FORMAT}
    errors = set_values(options, given, PREFIX, excluded="name")  # which names the run's folder
    return options, errors or list(dataset_errors(options))
