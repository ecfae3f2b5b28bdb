"""The words of a command line: flags, and `key=value` in Hydra's grammar, compared with the options
there are. Needs no JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from worldmodel.config.io import flatten
from worldmodel.config.values import Option, unknown_key
from worldmodel.errors import ConfigError, did_you_mean

HELP_FLAGS = ("-h", "--help")
SWEEP_FLAGS = ("-m", "--multirun")


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
            hint = f"; options have no dashes: {bare}" if "=" in bare else did_you_mean(word, flags)
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


def read_values(
    overrides: Sequence[Override], known: dict[str, Option], groups: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Returns the values given for `known` options, and all faults; `groups` only help to guess."""
    given: dict[str, Any] = {}
    faults = []
    for override in overrides:
        if fault := override_error(override, known.get(override.key_or_group)):
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
            fault = None if _is_interpolation(value) else known[key].error_in(given[key])
            faults += [fault] if fault else []
    return given, faults


def _mapping_above(key: str, known: dict[str, Option]) -> str | None:
    """The option that holds others by name, of which `key` is one."""
    level, _, _ = key.rpartition(".")
    return level if level in known and known[level].type is dict else None


def override_error(override: Override, option: Option | None = None) -> str | None:
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


def validate_checkpoint(runs: Sequence[str], checkpoint: str) -> None:
    """Raises ConfigError for what names no checkpoint, and for a folder that is no run's."""
    is_step = checkpoint.isascii() and checkpoint.isdigit()
    if checkpoint not in ("last", "best") and not is_step:
        hint = did_you_mean(checkpoint, ["last", "best"])
        raise ConfigError(f"checkpoint={checkpoint}: accepts last, best or a step{hint}")
    for run in map(Path, runs):
        if not (run / "config.yaml").is_file():
            there = [str(path.parent) for path in sorted(run.parent.glob("*/config.yaml"))]
            known = f"\n  {run.parent} holds: {', '.join(there[:10])}" if there else ""
            raise ConfigError(
                f"run={run}: not a run directory{did_you_mean(str(run), there)}{known}"
            )
