"""From the choices and options of a command line to a typed, validated configuration.

Hydra composes the YAML files; the options that were given on top are validated against the schema
here, one by one, so that all errors are reported at once and in the user's terms.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from worldmodel.config import Config
from worldmodel.config.arguments import override_error, read_values
from worldmodel.config.option import Option, options_by_key
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, every_schema, schemas
from worldmodel.config.rules import config_errors
from worldmodel.config.values import unknown_option
from worldmodel.errors import ConfigError, did_you_mean, first_line, raise_config_errors

GROUPS = (*SCHEMA_GROUPS, *FIXED, "experiment")
HYDRA_VERSION = "1.3"
# Hydra's plugins that an extra of this package installs.
PLUGINS = {"optuna": "sweep", "submitit_slurm": "slurm", "submitit_local": "slurm"}


def build_config(configs: Path, overrides: Sequence[Override]) -> Config:
    """Composes and validates the config of one job. Raises ConfigError."""
    tree = compose_files(configs, overrides).tree
    _override(tree, _sort(overrides)[1])
    return to_config(tree)


def to_config(tree: DictConfig) -> Config:
    """Converts a composed tree into the dataclasses. Raises ConfigError with every error."""
    known = options_by_key(blank(tree))
    try:
        missing = OmegaConf.missing_keys(tree)
        keys = sorted(key for key in missing if key in known)
        raise_config_errors(filter(None, (known[key].error_in(MISSING) for key in keys)))
        config = cast("Config", OmegaConf.to_object(tree))
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
    """The composed YAML files.

    tree: the options, with the schema of each group
    chosen: the choice of every group, experiments included
    sweeper: the name of Hydra's sweeper
    sweep_params: the values of each option that the files sweep over
    """

    tree: DictConfig
    chosen: dict[str, str | None]
    sweeper: str
    sweep_params: dict[str, str]


def compose_files(
    configs: Path, overrides: Sequence[Override], hydra: Sequence[Override] = ()
) -> ComposedConfig:
    """Composes the files for the groups chosen among `overrides`. Raises ConfigError.

    `hydra` are overrides of Hydra's own options, which only sweeps have.
    """
    choices, _ = _sort(overrides)
    raise_config_errors(filter(None, (_choice_error(configs, choice) for choice in choices)))
    chosen = (o for o in choices if o.value() is not None)  # experiment=null is the default
    files = _composed(configs, tuple(o.input_line or "" for o in (*chosen, *hydra)))
    return files._replace(tree=files.tree.copy())


@functools.lru_cache
def _composed(configs: Path, words: tuple[str, ...]) -> ComposedConfig:
    if not (configs / "config.yaml").is_file():
        raise ConfigError(
            f"{configs / 'config.yaml'}: not found; configs/ must be in the folder of train.py"
        )
    register(configs)
    try:
        with initialize_config_dir(config_dir=str(configs), version_base=HYDRA_VERSION):
            tree = compose("config", list(words), return_hydra_config=True)
        choices = tree.hydra.runtime.choices
        params = tree.hydra.sweeper.get("params") or {}
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain(error)) from None
    except (AttributeError, ValueError) as error:  # as for hydra/launcher=null
        raise ConfigError(f"not accepted by Hydra: {first_line(error)}") from error
    chosen = {group: choices.get(group) for group in GROUPS}
    sweep_params = {key: str(values) for key, values in params.items()}
    with open_dict(tree):
        del tree["hydra"]
    return ComposedConfig(tree, chosen, choices["hydra/sweeper"], sweep_params)


def _choice_error(configs: Path, choice: Override) -> str | None:
    if error := override_error(choice):
        return error
    known = choices_of(configs, choice.key_or_group)
    if choice.value() in known or (choice.key_or_group == "experiment" and choice.value() is None):
        return None
    hint = did_you_mean(str(choice.value()), known)
    return f"{choice.input_line}: accepts one of {', '.join(known)}{hint}"


def choices_of(configs: Path, group: str) -> list[str]:
    """Returns the choices of a group: those registered, and those with a YAML file."""
    files = {path.stem for path in (configs / group).glob("*.yaml")}
    registered = schemas(group) if group in SCHEMA_GROUPS else ["default"] if group in FIXED else []
    return sorted(files | set(registered))


def _explain(error: Exception) -> str:
    """Describes an error in a YAML file: Hydra names the file, its cause names the key."""
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, OmegaConfBaseException):
        if plugin := re.search(r"'hydra/(sweeper|launcher)/(\w+)'", str(error)):
            kind, name = plugin.groups()
            extra = PLUGINS.get(name)
            hint = f'; run pip install -e ".[{extra}]"' if extra else ""
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
    """Returns the options of all schemas of all groups, by key."""
    known = options_by_key(Config())
    for group, _, schema in every_schema():
        known |= options_by_key(schema(), f"{group}.")
    return known


def _override(tree: DictConfig, settings: Sequence[Override]) -> None:
    """Sets options in a composed tree. Raises ConfigError that lists every error."""
    given, errors = read_values(settings, options_by_key(blank(tree)), GROUPS)
    raise_config_errors(errors)
    for key, value in given.items():
        try:
            OmegaConf.update(tree, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}={value}: {first_line(error)}") from None


def blank(tree: DictConfig) -> Config:
    """Returns the dataclasses of a composed tree, with their defaults in place of its values."""
    config = Config()
    for group in (*SCHEMA_GROUPS, *FIXED):
        if schema := OmegaConf.get_type(tree, group):
            setattr(config, group, schema())
    return config
