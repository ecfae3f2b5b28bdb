"""The command lines of train.py and eval.py: from arguments to a typed, checked configuration.

Hydra composes the YAML files; the options that were given on top are compared with the schema
here, one by one, so that every mistake is named at once and in the user's terms. Nothing here
imports JAX: a mistake is reported before anything slow starts.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from worldmodel.checks import Option, check, refuse, unknown_key, walk
from worldmodel.config import SCHEMAS, Config
from worldmodel.config_io import flatten
from worldmodel.errors import ConfigError, StorageError, UserError, first_line, nearest
from worldmodel.storage import refusal

USER_ERROR = 2
GROUPS = (*SCHEMAS, "experiment")
HELP_FLAGS = ("-h", "--help")
SWEEP_FLAGS = ("-m", "--multirun")
HYDRA_VERSION = "1.3"
# Hydra's plugins that an extra of this package brings.
PLUGINS = {"optuna": "sweep", "submitit_slurm": "slurm", "submitit_local": "slurm"}


# ---------------------------------------------------------------------------------------- train.py


def run_training(job: Callable[[Config], int | None], script: str, description: str) -> int:
    """Runs `job` on the config that the command line asks for; returns the exit status.

    `configs/` lies beside `script`; `description` opens the help.
    """
    return guarded(lambda: _train(job, Path(script).resolve().parent / "configs", description))


def guarded(action: Callable[[], int | None]) -> int:
    """Returns the exit status of `action`; a user's mistake is shown as a few lines."""
    try:
        return action() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # whoever read the output has gone, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full or read-only, wherever that comes to light
        if (reason := refusal(error)) is None:
            raise
        print(f"error: {error.filename or 'the output'}: {reason}", file=sys.stderr)
        return StorageError.status


def _train(job: Callable[[Config], int | None], configs: Path, description: str) -> int | None:
    arguments = Arguments.parse(sys.argv[1:], flags=HELP_FLAGS + SWEEP_FLAGS)
    if arguments.has(HELP_FLAGS):
        print(training_help(configs, arguments.words, description))
        return 0
    if arguments.has(SWEEP_FLAGS):
        from worldmodel.sweeps import run_sweep

        return run_sweep(job, configs, arguments.words)
    overrides = parse_overrides(arguments.words)
    config = build_config(configs, overrides)
    if swept := compose_files(configs, overrides).swept:
        raise ConfigError(f"these files sweep over {', '.join(swept)}: add --multirun")
    return job(config)


def build_config(configs: Path, overrides: Sequence[Override]) -> Config:
    """Composes, types and checks the config of one job; raises ConfigError."""
    tree = compose_files(configs, overrides).tree
    _override(tree, _sort(overrides)[1])
    return typed(tree)


def typed(tree: DictConfig) -> Config:
    """Turns a composed tree into the dataclasses; raises ConfigError for every fault."""
    known = _options(tree)
    try:
        missing = OmegaConf.missing_keys(tree)
        refuse([known[key].fault(MISSING) for key in sorted(missing) if key in known])
        config = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None
    refuse(check(config))
    return config


def training_help(configs: Path, words: Sequence[str], description: str) -> str:
    """The text of `train.py --help`, for the choices made on the same command line."""
    from worldmodel import help_text

    files = compose_files(configs, parse_overrides(words))
    defaults = OmegaConf.to_container(files.tree)
    groups = {group: choices_of(configs, group) for group in GROUPS}
    return help_text.training(description, groups, files.chosen, _blank(files.tree), defaults)


# --------------------------------------------------------------------------------------- arguments


@dataclass(frozen=True)
class Arguments:
    words: list[str]
    flags: list[str]

    @classmethod
    def parse(cls, arguments: Sequence[str], flags: Sequence[str]) -> Arguments:
        given = [a for a in arguments if a.startswith("-")]
        if strangers := [a for a in given if a not in flags]:
            word = strangers[0]
            bare = word.lstrip("-")
            hint = f"; options have no dashes: {bare}" if "=" in bare else nearest(word, flags)
            raise ConfigError(f"{word}: no such flag; accepts {', '.join(flags)}{hint}")
        return cls([a for a in arguments if not a.startswith("-")], given)

    def has(self, flags: Sequence[str]) -> bool:
        return any(flag in flags for flag in self.flags)


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Reads `key=value` words in Hydra's grammar; raises ConfigError naming the first bad one."""
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word}: expected key=value")
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException as error:
        quoting = "put a value with special characters in quotes, twice: \"key='~/a, b'\""
        raise ConfigError(f"{error.override}: not readable as key=value\n  {quoting}") from None


def _sort(overrides: Sequence[Override]) -> tuple[list[Override], list[Override]]:
    """Splits overrides into choices of groups (data=pendulum) and values of options."""
    groups = [o for o in overrides if o.key_or_group in GROUPS and not isinstance(o.value(), dict)]
    return groups, [o for o in overrides if o not in groups]


def read_values(
    overrides: Sequence[Override], known: dict[str, Option], groups: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Returns the values given for `known` options, and all faults; `groups` only help to guess."""
    given: dict[str, Any] = {}
    faults = []
    for override in overrides:
        if fault := form_fault(override, known.get(override.key_or_group)):
            faults.append(fault)
            continue
        for key, value in flatten({override.key_or_group: override.value()}, known):
            if (mapping := _mapping_above(key, known)) is not None:
                given.setdefault(mapping, {})[key.removeprefix(f"{mapping}.")] = value
                continue
            if key not in known:
                faults.append(_key_fault(key, known, groups))
                continue
            given[key] = known[key].convert(value)
            fault = None if _is_interpolation(value) else known[key].fault(given[key])
            faults += [fault] if fault else []
    return given, faults


def _mapping_above(key: str, known: dict[str, Option]) -> str | None:
    """The option that holds others by name, of which `key` is one."""
    level, _, _ = key.rpartition(".")
    return level if level in known and known[level].type is dict else None


def form_fault(override: Override, option: Option | None = None) -> str | None:
    word = override.input_line
    if override.is_hydra_override():
        return f"{word}: Hydra's own options are for sweeps (--multirun)"
    if override.is_add() or override.is_force_add() or override.is_delete():
        bare = (word or "").lstrip("+~")
        return f"{word}: options cannot be added or removed, only set: {bare or 'key=value'}"
    if override.package is not None:
        return f"{word}: groups are chosen as {override.key_or_group}=CHOICE, without '@'"
    if override.is_sweep_override():
        listed = f"{override.key_or_group}=[{override.get_value_string()}]"
        hint = f"; a list is written {listed}" if option and option.is_list else ""
        return f"{word}: several values need --multirun{hint}"
    return None


def _key_fault(key: str, known: dict[str, Option], groups: Sequence[str]) -> str:
    below = [k[len(key) + 1 :] for k in known if k.startswith(key + ".")]
    if below:
        return f"{key}: holds several options; set one of {', '.join(below)}"
    return unknown_key(key, [*known, *groups])


def _is_interpolation(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


# ------------------------------------------------------------------------------------- composition


def register() -> None:
    """Registers every dataclass with Hydra, as schema/config and schema/GROUP/NAME."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema, package=group)


class Files(NamedTuple):
    """What the YAML files say, for the choices made.

    tree: the options, with the schema of each group; chosen: the choice of every group, experiments
    included; sweeper: Hydra's, by name; swept: values by option that a sweep goes through
    """

    tree: DictConfig
    chosen: dict[str, str | None]
    sweeper: str
    swept: dict[str, str]


def compose_files(
    configs: Path, overrides: Sequence[Override], hydra: Sequence[Override] = ()
) -> Files:
    """Composes the files for the groups chosen among `overrides`; raises ConfigError.

    `hydra` are overrides of Hydra's own options: only sweeps have some.
    """
    choices, _ = _sort(overrides)
    refuse([fault for choice in choices if (fault := _choice_fault(configs, choice))])
    files = _composed(configs, tuple(o.input_line or "" for o in (*choices, *hydra)))
    return files._replace(tree=files.tree.copy())


@functools.lru_cache
def _composed(configs: Path, words: tuple[str, ...]) -> Files:
    if not (configs / "config.yaml").is_file():
        raise ConfigError(f"{configs / 'config.yaml'}: not found; it belongs beside train.py")
    register()
    try:
        with initialize_config_dir(config_dir=str(configs), version_base=HYDRA_VERSION):
            tree = compose("config", list(words), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain(error)) from None
    every = OmegaConf.to_container(tree.hydra.runtime.choices)
    chosen = {group: every.get(group) for group in GROUPS}
    swept = {key: str(values) for key, values in (tree.hydra.sweeper.get("params") or {}).items()}
    with open_dict(tree):
        del tree["hydra"]
    return Files(tree, chosen, every["hydra/sweeper"], swept)


def _choice_fault(configs: Path, choice: Override) -> str | None:
    if fault := form_fault(choice):
        return fault
    known = choices_of(configs, choice.key_or_group)
    if choice.value() in known or (choice.key_or_group == "experiment" and choice.value() is None):
        return None
    hint = nearest(str(choice.value()), known)
    return f"{choice.input_line}: accepts one of {', '.join(known)}{hint}"


def choices_of(configs: Path, group: str) -> list[str]:
    """What a group may be."""
    return sorted(path.stem for path in (configs / group).glob("*.yaml"))


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
        return where + unknown_key(key, known)
    accepts = f"; {key} accepts {known[key].accepts}" if key in known else f" ({key})"
    return f"{where}{first_line(cause)}{accepts}"


def _every_option() -> dict[str, Option]:
    """The options of all schemas of all groups."""
    entries = list(walk(Config()))
    for group, schemas in SCHEMAS.items():
        for schema in schemas.values():
            entries += walk(schema(), f"{group}.")
    return {option.key: option for option, _ in entries}


def _override(tree: DictConfig, settings: Sequence[Override]) -> None:
    """Sets options in a composed tree; raises ConfigError that names every fault."""
    given, faults = read_values(settings, _options(tree), GROUPS)
    refuse(faults)
    for key, value in given.items():
        try:
            OmegaConf.update(tree, key, value, merge=False)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}={value}: {first_line(error)}") from None


def _options(tree: DictConfig) -> dict[str, Option]:
    return {option.key: option for option, _ in walk(_blank(tree))}


def _blank(tree: DictConfig) -> Config:
    """The dataclasses of a composed tree with their own defaults: its options, without values."""
    config = Config()
    for group in SCHEMAS:
        setattr(config, group, OmegaConf.get_type(tree, group)())
    return config
