"""Configurations on disk: the config.yaml of a run directory, and differences between two."""

from __future__ import annotations

import copy
import dataclasses
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import yaml

from worldmodel import __version__
from worldmodel.config import Config
from worldmodel.config.option import (
    choice_error,
    format_value,
    iter_options,
    options_by_key,
)
from worldmodel.config.registry import SCHEMA_GROUPS, entry_of, schemas
from worldmodel.config.rules import config_errors
from worldmodel.config.values import flatten, set_values
from worldmodel.errors import ConfigError, raise_config_errors
from worldmodel.system.storage import make_directory, write_text_atomic

Options = TypeVar("Options")

# Options that do not change what is computed: a run may resume with other values of these.
RUNTIME_OPTIONS = (
    *("name", "runs_dir", "fresh", "training.max_to_keep", "training.compilation_cache"),
    *("training.on_divergence", "training.dry_run", "training.fsdp_shards"),
    *("data.cache", "data.cache_dir", "data.loader", "data.num_workers"),
    *(
        f"training.{stage}.{key}"
        for stage in ("autoencoder", "world_model", "policy")
        for key in ("best_metric", "best_mode")
    ),
)
RUNTIME_OPTION_PREFIXES = ("logging.", "evaluation.", "training.distributed.")


# Of a config.yaml, which may come from others; one with 5,000 columns has 300 kB and 30,000 nodes.
MAX_FILE_BYTES, MAX_NODES, MAX_DEPTH = 4 * 2**20, 100_000, 20
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def save_config(config: Config, path: str | os.PathLike) -> None:
    """Writes a resolved config as YAML, atomically, and creates its folder."""
    values = {"version": __version__, **dataclasses.asdict(config)}
    values["schema"] = {g: entry_of(g, getattr(config, g)).name for g in SCHEMA_GROUPS}
    make_directory(Path(path).parent)
    write_text_atomic(Path(path), yaml.safe_dump(values, sort_keys=False))


def load_config(path: str | os.PathLike) -> Config:
    """Reads what `save_config` wrote. Options that the file lacks take their defaults.

    Raises ConfigError if the file is not valid, or if a version wrote it whose runs differ.
    """
    values = read_values(Path(path))
    try:
        return _build(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: not a valid configuration\n{error}") from None


def read_values(path: Path) -> Any:
    """The contents of a config.yaml without its version, once that is checked: options and files of
    a run are those of its major and minor version. Before 0.2 no version was written.

    Raises ConfigError if this version cannot read the run.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: accepts a regular file of at most {MAX_FILE_BYTES:,} bytes")
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable YAML file\n{error}") from None
    version = str(values.pop("version", "0.1")) if isinstance(values, dict) else __version__
    if version.split(".")[:2] != __version__.split(".")[:2]:
        raise ConfigError(
            f"{path.parent} was written by worldmodel {version}, and worldmodel "
            f"{__version__} cannot read it: use that version, or train the run again"
        )
    return values


def _parse_yaml(text: str) -> Any:
    """The values of plain YAML, whose size is checked before anything is built: an alias can stand
    for any number of copies.
    """
    depth = nodes = 0
    for event in yaml.parse(text, Loader=YAML_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        wrong = {
            "an alias or an anchor": getattr(event, "anchor", None) is not None,
            "a tag": getattr(event, "tag", None) is not None,
            f"more than {MAX_DEPTH} levels": depth > MAX_DEPTH,
            f"more than {MAX_NODES:,} values": nodes > MAX_NODES,
        }
        for name in (name for name, is_given in wrong.items() if is_given):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: {name} is not accepted")
    return yaml.load(text, Loader=YAML_LOADER)


def _build(values: Any) -> Config:
    if not isinstance(values, dict):
        raise ConfigError("the file holds no options")
    values = dict(values)
    named = values.pop("schema", None)
    config = Config()
    for group in SCHEMA_GROUPS:
        setattr(config, group, _schema(group, values.get(group), named)())
    return with_overrides(config, values)


def with_overrides(config: Config, values: dict[str, Any]) -> Config:
    """Returns a copy of `config` with some options set, by dotted keys or nested dicts.

    Raises ConfigError for unknown options and values that are not accepted.
    """
    config = copy.deepcopy(config)
    raise_config_errors(set_values(config, dict(flatten(values, options_by_key(config)))))
    raise_config_errors(config_errors(config))
    return config


def build_options(schema: type[Options], values: dict[str, Any], name: str) -> Options:
    """Returns options of `schema` with some of them set; messages call them `name`.

    Raises ConfigError for unknown options and values that are not accepted.
    """
    options = schema()
    raise_config_errors(set_values(options, values, f"{name}."))
    return options


def _schema(group: str, options: Any, of_groups: Any) -> type:
    if not isinstance(options, dict):
        raise ConfigError(f"{group}: missing, or not a group of options")
    named = of_groups.get(group) if isinstance(of_groups, dict) else None
    name = options.get("name") if named is None else named
    known = schemas(group)
    if name not in list(known):
        raise ConfigError(choice_error(group, name, known))
    return known[name]


def differences(old: Config, new: Config) -> list[str]:
    """Returns lines such as 'training.world_model.steps: 100 -> 200'.

    Options that do not change what is computed are left out.
    """
    before, after = _computed(old), _computed(new)
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _computed(config: Config) -> dict[str, str]:
    return {
        option.key: repr(value) if isinstance(value, float) else format_value(value)
        for option, value in iter_options(config)
        if option.key not in RUNTIME_OPTIONS and not option.key.startswith(RUNTIME_OPTION_PREFIXES)
    }
