"""Where families of models, algorithms, readers and sections of the evaluation register themselves,
each in one statement:

    @register("model", "koopman", KoopmanOptions)
    class Koopman(EncodedModel): ...

Schema, choices, help and error messages follow from that. All modules of a group's package are
imported when the group is first asked for, and then the modules that other installed packages name
as entry points of `worldmodel.plugins`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from worldmodel.config.evaluation import EvaluationOptions
from worldmodel.config.training import LoggingOptions, TrainingOptions
from worldmodel.errors import ConfigError, did_you_mean, first_line

Registered = TypeVar("Registered")

PACKAGES = {
    "data": "worldmodel.data.readers",
    "model": "worldmodel.models",
    "policy": "worldmodel.policies",
    "section": "worldmodel.evaluation.sections",
}
# Groups whose options depend on the choice, and those with one set of options.
SCHEMA_GROUPS = ("data", "model", "policy")
FIXED = {"training": TrainingOptions, "logging": LoggingOptions, "evaluation": EvaluationOptions}
PLUGINS = "worldmodel.plugins"  # the group of entry points
NO_OPTIONS = type(None)  # what an entry has that needs none, such as a section


@dataclass(frozen=True)
class Entry:
    """One choice of a group.

    name: the choice, as in `model=koopman`
    options: the dataclass of its options, whose first line of documentation the help shows
    target: the class or function that is registered
    details: what else the group wants to know of it, by name
    """

    name: str
    options: type
    target: Any
    details: Mapping[str, Any] = field(default_factory=dict)


_entries: dict[str, dict[str, Entry]] = {group: {} for group in PACKAGES}


def register(
    group: str, name: str, options: type = NO_OPTIONS, **details: Any
) -> Callable[[Registered], Registered]:
    """A decorator that adds a choice to a group: `data`, `model`, `policy` or `section`.

    name: the choice, as in `model=koopman`
    options: the dataclass of its options, not registered before
    details: for a policy algorithm, `joint`, its learner that trains the model too; for a reader,
        all optional: `source`, the option that VALUE sets in a source FORMAT:VALUE (default:
        `path`); `endings` of its files; `recognizes`, from a folder to whether the format reads it;
        `listing`, from a folder to lines for `python -m worldmodel.data list`;
        for a section, `order`, its place in the report

    Raises ValueError if the name or the options are registered already. The file of a model family:

        @dataclass
        class IdentityOptions(ModelOptions):
            name: str = option("identity", "family of the world model")

        @register("model", "identity", IdentityOptions)
        class Identity(WorldModel): ...

    From then on `model=identity` is a choice, listed by `--help` and in error messages.
    """

    def add(target: Registered) -> Registered:
        entries = _entries[group]
        taken = [
            entry
            for entry in entries.values()
            if entry.name == name or (options is not NO_OPTIONS and entry.options is options)
        ]
        if any(_place(entry.target) != _place(target) for entry in taken):
            raise ValueError(f"{group}={name}: registered already, as {taken[0].target}")
        entries[name] = Entry(name, options, target, details)
        return target

    return add


def _place(target: Any) -> tuple[str, str] | None:
    return target and (target.__module__, target.__qualname__)


def entries(group: str) -> dict[str, Entry]:
    """The choices of a group by name, in alphabetical order."""
    _load(group)
    return dict(sorted(_entries[group].items()))


def names(group: str, condition: Callable[[Any], bool]) -> str:
    """The choices whose registered class has a property, for messages: "gru, koopman"."""
    return ", ".join(name for name, entry in entries(group).items() if condition(entry.target))


def schemas(group: str) -> dict[str, type]:
    """The dataclass of options of each choice."""
    return {name: entry.options for name, entry in entries(group).items()}


def every_schema() -> Iterator[tuple[str, str, type]]:
    """Group, choice and dataclass of options, of all there are."""
    for group in SCHEMA_GROUPS:
        yield from ((group, name, schema) for name, schema in schemas(group).items())
    yield from ((group, "default", schema) for group, schema in FIXED.items())


def entry_of(group: str, options: Any) -> Entry:
    """The entry whose options these are. Raises ConfigError for options nobody registered."""
    for entry in entries(group).values():
        if entry.options is type(options):
            return entry
    name = getattr(options, "name", type(options).__name__)
    raise ConfigError(
        f"{group}={name}: {type(options).__name__} is not registered; accepts one of "
        f"{', '.join(entries(group))}{did_you_mean(str(name), entries(group))}"
    )


@cache
def _load(group: str) -> None:
    package = importlib.import_module(PACKAGES[group])
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    _load_plugins()


@cache
def _load_plugins() -> None:
    for plugin in importlib.metadata.entry_points(group=PLUGINS):
        try:
            plugin.load()
        except Exception as error:  # anything that the module raises
            raise ConfigError(
                f"the plug-in {plugin.name} ({plugin.value}) cannot be imported: "
                f"{type(error).__name__}: {first_line(error)}; repair or uninstall it"
            ) from error
