"""From the choices and options of a command line to a typed, checked configuration.

Hydra composes the YAML files; the options that were given on top are compared with the schema
here, one by one, so that every mistake is named at once and in the user's terms. Nothing here
imports JAX: a mistake is reported before anything slow starts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from worldmodel.config import Config
from worldmodel.config.arguments import override_error, read_values
from worldmodel.config.option import Option, iter_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, every_schema, schemas
from worldmodel.config.rules import config_errors
from worldmodel.config.values import unknown_option
from worldmodel.errors import ConfigError, did_you_mean, first_line, raise_config_errors

GROUPS = (*SCHEMA_GROUPS, *FIXED, "experiment")
HYDRA_VERSION = "1.3"
# Hydra's plugins that an extra of this package brings.
PLUGINS = {"optuna": "sweep", "submitit_slurm": "slurm", "submitit_local": "slurm"}


def build_config(configs: Path, overrides: Sequence[Override]) -> Config:
    """Composes, types and checks the config of one job; raises ConfigError."""
    tree = compose_files(configs, overrides).tree
    _override(tree, _sort(overrides)[1])
    return to_config(tree)


def to_config(tree: DictConfig) -> Config:
    """Turns a composed tree into the dataclasses; raises ConfigError for every fault."""
    known = _options(tree)
    try:
        missing = OmegaConf.missing_keys(tree)
        keys = sorted(key for key in missing if key in known)
        raise_config_errors(filter(None, (known[key].error_in(MISSING) for key in keys)))
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None
    raise_config_errors(config_errors(config))
    return config


def _sort(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Splits overrides into choices of groups (data=pendulum) and values of options."""
    groups = [o for o in overrides if o.key_or_group in GROUPS and not isinstance(o.value(), dict)]
    return groups, [o for o in overrides if o not in groups]


def register(configs: Path) -> None:
    """Registers every dataclass with Hydra, as schema/config and schema/GROUP/NAME; and as
    GROUP/NAME, a choice, unless `configs` has a file of that name.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for group, name, schema in every_schema():
        store.store(group=f"schema/{group}", name=name, node=schema, package=group)
        if not (configs / group / f"{name}.yaml").is_file():
            more = getattr(schema, "compose_with", ())
            defaults = [f"/schema/{group}/{name}@{group}", *more, "_self_"]
            store.store(group=group, name=name, node={"defaults": defaults}, package="_global_")


class ComposedConfig(NamedTuple):
    """What the YAML files say, for the choices made.

    tree: the options, with the schema of each group; chosen: the choice of every group, experiments
    included; sweeper: Hydra's, by name; sweep_params: values by option that a sweep goes through
    """

    tree: DictConfig
    chosen: dict[str, str | None]
    sweeper: str
    sweep_params: dict[str, str]


def compose_files(
    configs: Path, overrides: Sequence[Override], hydra: Sequence[Override] = ()
) -> ComposedConfig:
    """Composes the files for the groups chosen among `overrides`; raises ConfigError.

    `hydra` are overrides of Hydra's own options: only sweeps have some.
    """
    choices, _ = _sort(overrides)
    raise_config_errors([fault for choice in choices if (fault := _choice_fault(configs, choice))])
    files = _composed(configs, tuple(o.input_line or "" for o in (*choices, *hydra)))
    return files._replace(tree=files.tree.copy())


@functools.lru_cache
def _composed(configs: Path, words: tuple[str, ...]) -> ComposedConfig:
    if not (configs / "config.yaml").is_file():
        raise ConfigError(f"{configs / 'config.yaml'}: not found; it belongs beside train.py")
    register(configs)
    try:
        with initialize_config_dir(config_dir=str(configs), version_base=HYDRA_VERSION):
            tree = compose("config", list(words), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain(error)) from None
    every = OmegaConf.to_container(tree.hydra.runtime.choices)
    chosen = {group: every.get(group) for group in GROUPS}
    sweep_params = {
        key: str(values) for key, values in (tree.hydra.sweeper.get("params") or {}).items()
    }
    with open_dict(tree):
        del tree["hydra"]
    return ComposedConfig(tree, chosen, every["hydra/sweeper"], sweep_params)


def _choice_fault(configs: Path, choice: Override) -> str | None:
    if fault := override_error(choice):
        return fault
    known = choices_of(configs, choice.key_or_group)
    if choice.value() in known or (choice.key_or_group == "experiment" and choice.value() is None):
        return None
    hint = did_you_mean(str(choice.value()), known)
    return f"{choice.input_line}: accepts one of {', '.join(known)}{hint}"


def choices_of(configs: Path, group: str) -> list[str]:
    """What a group may be: what registered, and files that set options of it."""
    files = {path.stem for path in (configs / group).glob("*.yaml")}
    registered = schemas(group) if group in SCHEMA_GROUPS else ["default"] if group in FIXED else []
    return sorted(files | set(registered))


def _explain(error: Exception) -> str:
    """A mistake in a YAML file, in a few lines: Hydra names the file, its cause names the key."""
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, OmegaConfBaseException):
        if plugin := re.search(r"'hydra/(sweeper|launcher)/(\w+)'", str(error)):
            kind, name = plugin.groups()
            extra = PLUGINS.get(name)
            hint = f'; pip install -e ".[{extra}]" brings it' if extra else ""
            return f"hydra/{kind}={name}: no such plugin is installed{hint}"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return "\n  ".join(lines[:12])
    file = re.match(r"In '([^']+)'", str(error))
    where = f"configs/{file[1]}.yaml: " if file else ""
    key = str(cause.full_key)
    known = _every_option()
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return where + unknown_option(key, known)
    accepts = f"; {key} accepts {known[key].accepts}" if key in known else f" ({key})"
    return f"{where}{first_line(cause)}{accepts}"


def _every_option() -> dict[str, Option]:
    """The options of all schemas of all groups."""
    entries = list(iter_options(Config()))
    for group, _, schema in every_schema():
        entries += iter_options(schema(), f"{group}.")
    return {option.key: option for option, _ in entries}


def _override(tree: DictConfig, settings: Sequence[Override]) -> None:
    """Sets options in a composed tree; raises ConfigError that names every fault."""
    given, faults = read_values(settings, _options(tree), GROUPS)
    raise_config_errors(faults)
    for key, value in given.items():
        try:
            OmegaConf.update(tree, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}={value}: {first_line(error)}") from None


def _options(tree: DictConfig) -> dict[str, Option]:
    return {option.key: option for option, _ in iter_options(blank(tree))}


def blank(tree: DictConfig) -> Config:
    """The dataclasses of a composed tree with their own defaults: its options, without values."""
    config = Config()
    for group in (*SCHEMA_GROUPS, *FIXED):
        setattr(config, group, OmegaConf.get_type(tree, group)())
    return config
