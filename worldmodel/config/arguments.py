"""The parser of every command line: flags, positional words, and OPTION=VALUE in Hydra's grammar,
checked against a dataclass of options. Imports neither JAX nor, before options are read, Hydra.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldmodel.config.option import Option, format_value, option_errors, options_by_key
from worldmodel.config.values import assign, convert_values, flatten
from worldmodel.errors import ConfigError, did_you_mean, raise_config_errors

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

MAX_NESTING = 20  # of brackets in a word; parsers are recursive
HELP_FLAGS = ("-h", "--help")
SWEEP_FLAGS = ("-m", "--multirun")
OPTION_WORD = re.compile(r"[~+]*[a-z_.]+=")  # how a word begins that sets an option
# A list of texts may be written without brackets; these begin a value that is written in full.
NOT_TEXTS = ("null", "true", "false", "nan", "inf", "yes", "no", "on", "off")
WRITTEN_IN_FULL = re.compile(r"\[|null$|['\"]|$")


@dataclass(frozen=True)
class Arguments:
    """The words of a command line, sorted: flags, positional words, and OPTION=VALUE."""

    flags: list[str]
    positional: list[str]
    options: list[str]

    @classmethod
    def parse(
        cls, words: Sequence[str], flags: Sequence[str] = HELP_FLAGS, positional: bool = False
    ) -> Arguments:
        """Sorts `words`; without `positional` words, all but flags are options.

        Raises ConfigError for a flag that is not among `flags`.
        """
        given = [word for word in words if word.startswith("-")]
        if unknown := [word for word in given if word not in flags]:
            word = unknown[0]
            bare = word.lstrip("-")
            hint = f"; options have no dashes: {bare}" if "=" in bare else did_you_mean(word, flags)
            raise ConfigError(f"{word}: unknown flag; accepts {', '.join(flags)}{hint}")
        others = [word for word in words if not word.startswith("-")]
        bare = [w for w in others if positional and not OPTION_WORD.match(w)]
        return cls(given, bare, [word for word in others if word not in bare])

    def has(self, flags: Sequence[str]) -> bool:
        return any(flag in flags for flag in self.flags)

    def take(self, *names: str, usage: str) -> list[str]:
        """Returns the positional words, one for each of `names`; [NAME] may be left out.

        Raises ConfigError where one is missing or left over; `usage` ends the message.
        """
        words = self.positional
        required = [name for name in names if not name.startswith("[")]
        if len(words) < len(required):
            raise ConfigError(f"{required[len(words)]} is missing\n  usage: {usage}")
        if len(words) > len(names):
            raise ConfigError(f"{words[len(names)]}: unexpected argument\n  usage: {usage}")
        return words


def parse_options(words: Sequence[str], options: Any, shorthand: str = "") -> dict[str, Any]:
    """Sets what OPTION=VALUE `words` give in `options`, a dataclass instance, and checks all of it.

    Lists may be written without brackets, and keys without the prefix `shorthand`. Returns the
    values that were given, by key. Raises ConfigError that lists every error.
    """
    known = options_by_key(options)
    overrides = parse_overrides([_in_full(word, known, shorthand) for word in words])
    given, errors = read_values(overrides, known)
    for key, value in given.items():
        assign(options, key, value)
    raise_config_errors([*errors, *option_errors(options)])
    return given


def _in_full(word: str, known: Mapping[str, Option], shorthand: str) -> str:
    key, equals, value = word.partition("=")
    if not equals:
        return word
    if key not in known and shorthand + key in known:
        key = shorthand + key
    if key in known and known[key].is_list and not WRITTEN_IN_FULL.match(value):
        items = value.split(",")
        value = f"[{','.join(map(repr, items) if known[key].type is str else items)}]"
    return f"{key}={value}"


def parse_overrides(words: Sequence[str]) -> list[Override]:
    """Reads `key=value` words in Hydra's grammar; raises ConfigError naming the first bad one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser, overrides = OverridesParser.create(), []
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word}: expected key=value")
        levels = itertools.accumulate((c in "[{(") - (c in ")}]") for c in word)
        if max(levels) > MAX_NESTING:
            raise ConfigError(f"{word}: accepts at most {MAX_NESTING} levels of brackets")
        try:
            overrides += parser.parse_overrides([word])
        except (OverrideParseException, ValueError):  # an integer of thousands of digits
            quoting = "put a value with special characters in quotes, twice: \"key='~/a, b'\""
            raise ConfigError(f"{word}: not readable as key=value\n  {quoting}") from None
    return overrides


def quote_value(value: Any) -> str:
    """A value as that of KEY=VALUE, with text in quotes if it could be read as anything else."""
    if isinstance(value, list):
        return "[" + ",".join(map(quote_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote_value(k)}: {quote_value(v)}" for k, v in value.items()) + "}"
    if not isinstance(value, str):
        return repr(value) if isinstance(value, float) else format_value(value)
    return _quote_text(value)


def _quote_text(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z./][\w./+-]*", text) and text.lower() not in NOT_TEXTS
    if plain:
        return text
    text = text.replace("${", r"\${")  # of an interpolation
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + m[2].replace("'", r"\'"), text) + "'"


def read_values(
    overrides: Sequence[Override], known: Mapping[str, Option], groups: Collection[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Returns the values given for `known` options, by key, and all errors.

    `groups` are those that choices may be made of; where there are any, values may be swept over
    and may be interpolations, ${...}, which are not checked here.
    """
    given: dict[str, Any] = {}
    errors = []
    for override in overrides:
        name = override.key_or_group
        if error := override_error(override, known.get(name), multirun=bool(groups)):
            errors.append(error)
            continue
        values = dict(flatten({name: override.value()}, known))
        for key, value in (values or {name: override.value()}).items():  # {} sets nothing
            if (mapping := _mapping_above(key, known)) is not None:
                given.setdefault(mapping, {})[key.removeprefix(f"{mapping}.")] = value
            elif below := [k[len(key) + 1 :] for k in known if k.startswith(key + ".")]:
                errors.append(f"{key}: is a group of options; set one of {', '.join(below)}")
            elif groups and isinstance(value, str) and "${" in value and key in known:
                given[key] = value
            else:
                converted, more = convert_values({key: value}, known, groups)
                given |= converted
                errors += more
    return given, errors


def _mapping_above(key: str, known: Mapping[str, Option]) -> str | None:
    """The option that holds others by name, of which `key` is one."""
    level, _, _ = key.rpartition(".")
    return level if level in known and known[level].type is dict else None


def override_error(
    override: Override, option: Option | None = None, *, multirun: bool = True
) -> str | None:
    """Returns what is wrong with the form of an override, as one line, or None.

    option: the one that it sets; multirun: whether the command can sweep over several values
    """
    word = override.input_line
    if override.is_hydra_override():
        return f"{word}: Hydra's options are accepted by train.py --multirun only"
    if override.is_add() or override.is_force_add() or override.is_delete():
        bare = (word or "").lstrip("+~")
        return f"{word}: options cannot be added or removed, only set: {bare or 'key=value'}"
    if override.package is not None:
        return f"{word}: groups are chosen as {override.key_or_group}=CHOICE, without '@'"
    if override.is_sweep_override():
        listed = f"{override.key_or_group}=[{override.get_value_string()}]"
        hint = f"; a list is written {listed}" if option and option.is_list else ""
        needs = "several values need --multirun" if multirun else "accepts one value"
        return f"{word}: {needs}{hint}"
    return None


def validate_checkpoint(runs: Sequence[str], checkpoint: str) -> None:
    """Raises ConfigError for an invalid `checkpoint`, and for folders that are no run's."""
    is_step = checkpoint.isascii() and checkpoint.isdigit()
    if checkpoint not in ("last", "best") and not is_step:
        hint = did_you_mean(checkpoint, ["last", "best"])
        raise ConfigError(f"checkpoint={checkpoint}: accepts last, best or a step{hint}")
    for run in map(Path, runs):
        if not os.path.isfile(run / "config.yaml"):  # False too for names that no system allows
            existing = [str(path.parent) for path in sorted(run.parent.glob("*/config.yaml"))]
            listed = f"\n  {run.parent} holds: {', '.join(existing[:10])}" if existing else ""
            raise ConfigError(
                f"run={run}: not a run directory{did_you_mean(str(run), existing)}{listed}"
            )
