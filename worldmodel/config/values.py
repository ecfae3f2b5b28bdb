"""Values of options by their dotted keys: flattened, converted, validated and assigned."""

from __future__ import annotations

import difflib
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from worldmodel.config.option import Option, options_by_key
from worldmodel.config.registry import SCHEMA_GROUPS, schemas


def flatten(
    values: dict, known: Container[str] = (), prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested dicts; the value of a `known` key is never flattened."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key not in known:
            yield from flatten(value, known, key + ".")
        else:
            yield key, value


def assign(config: Any, key: str, value: Any) -> None:
    """Sets the option with this dotted key."""
    *groups, leaf = key.split(".")
    for group in groups:
        config = getattr(config, group)
    setattr(config, leaf, value)


def set_values(
    options: Any, values: Mapping[str, Any], prefix: str = "", excluded: str | None = None
) -> list[str]:
    """Sets options below a dataclass instance by their dotted keys, and returns all errors.

    Messages show the keys with `prefix`; an `excluded` key is unknown.
    """
    known = options_by_key(options, prefix)
    known.pop(f"{prefix}{excluded}", None)
    given, errors = convert_values({f"{prefix}{key}": v for key, v in values.items()}, known)
    for key, value in given.items():
        assign(options, key.removeprefix(prefix), value)
    return errors


def convert_values(
    values: Mapping[str, Any], known: Mapping[str, Option], groups: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Returns the values of `known` options, each in the type of its option, and all errors.

    `groups` are further names that a misspelt key may be close to.
    """
    converted: dict[str, Any] = {}
    errors = []
    for key, value in values.items():
        if key not in known:
            errors.append(unknown_option(key, [*known, *groups]))
            continue
        converted[key] = known[key].convert(value)
        if error := known[key].error_in(converted[key]):
            errors.append(error)
    return converted, errors


def unknown_option(key: str, known: Iterable[str]) -> str:
    """Returns the message for an unknown option: the nearest known one, and all of its level."""
    known = list(known)
    level, _, leaf = key.rpartition(".")
    by_leaf: dict[str, list[str]] = {}
    for option in known:
        by_leaf.setdefault(option.rpartition(".")[2], []).append(option)
    close = by_leaf.get(leaf) or difflib.get_close_matches(key[:100], known, n=1, cutoff=0.6)
    for similar in difflib.get_close_matches(leaf[:100], by_leaf, n=1, cutoff=0.6):
        close = close or by_leaf[similar]
    message = f"{key}: no such option"
    if elsewhere := _other_schemas(key):
        message += f" here; it belongs to {' and '.join(elsewhere)}"
    elif close:
        message += f" (did you mean {' or '.join(repr(k) for k in close[:3])}?)"
    prefix = level + "." if level else ""
    siblings = {k[len(prefix) :].split(".")[0] for k in known if k.startswith(prefix)}
    if siblings:
        message += f"\n  {level or 'the top level'} accepts: {', '.join(sorted(siblings))}"
    return message


def _other_schemas(key: str) -> list[str]:
    group, _, rest = key.partition(".")
    return [
        f"{group}={name}"
        for name, schema in (schemas(group) if group in SCHEMA_GROUPS else {}).items()
        if rest in options_by_key(schema())
    ]
