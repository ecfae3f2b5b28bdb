"""Ids of Gymnasium environments, `ID` or `package.module:ID`: their form, and whose code they run.

Gymnasium imports the module of such an id. The user's own command may name any, also of the working
folder; a run that came from elsewhere only one of an installed package, without arguments.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from worldmodel.config.option import format_value, iter_options
from worldmodel.errors import require

FORM = re.compile(r"((?P<package>[^\W\d]\w*)(\.[^\W\d]\w*)*:)?([\w.-]+/)*[\w.-]+")

OURS = ("disable_env_checker", "render_mode", "id")  # arguments of `gymnasium.make` set here


@dataclass(frozen=True)
class EnvironmentId:
    """A Gymnasium environment: its id, and the arguments of its constructor by name."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: str | EnvironmentId) -> EnvironmentId:
        """Takes an id alone, too. Raises ArgumentError for anything else."""
        accepted = "a Gymnasium id, as text, or an EnvironmentId"
        kind = type(environment).__name__
        require(isinstance(environment, str | EnvironmentId), "environment", kind, accepted)
        return cls(environment) if isinstance(environment, str) else environment

    def __str__(self) -> str:
        return self.name


@contextmanager
def working_folder_last(name: str) -> Iterator[None]:
    """Modules are looked for in the working folder too, after all others, if the id names one."""
    folder = os.getcwd()
    if ":" not in name or folder in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def environments_in(options: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and id of every environment that is named below a dataclass of options."""
    for option, value in iter_options(options, prefix):
        if _is_arguments(option.key):
            continue
        named = (
            {f"{option.key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        )
        for key, name in (named or {option.key: value}).items():
            if key.rpartition(".")[2] == "environment" and name is not None:
                yield key, str(name)


def form_errors(options: object, prefix: str) -> Iterator[str]:
    """Yields the ids that Gymnasium could not read."""
    for key, name in environments_in(options, prefix):
        if not FORM.fullmatch(name):
            yield f"{key}={name}: accepts a Gymnasium id, ID or package.module:ID"


def argument_errors(options: Mapping[str, Any], key: str) -> Iterator[str]:
    """Yields the arguments of an environment that are not its constructor's."""
    for name in options:
        if name in OURS or not name.isidentifier():
            yield f"{key}.{name}: accepts the names of the constructor's arguments"


def foreign_arguments(config: object) -> Iterator[str]:
    """Yields the arguments with which a run from elsewhere creates environments: they may name
    files to read, and other environments to import.
    """
    for option, value in iter_options(config):
        if _is_arguments(option.key) and value:
            yield (
                f"{option.key}={format_value(value)}: the run was trained elsewhere, and these "
                "arguments may read files or import code; if you trust it, add allow_code=true"
            )


def _is_arguments(key: str) -> bool:
    return key.rpartition(".")[2] == "environment_options"


def local_code(config: object) -> Iterator[str]:
    """Yields the ids whose module belongs to no installed package: creating such an environment
    would import a file that may have come with a run, such as one of the working folder.
    """
    for key, name in environments_in(config):
        if not _is_installed(name):
            yield (
                f"{key}={name}: is not of an installed package, and creating it would import code; "
                "if you trust the run and the files here, add allow_code=true"
            )


def _is_installed(name: str) -> bool:
    match = FORM.fullmatch(name)
    package = match["package"] if match else None
    if package in (None, __name__.partition(".")[0]):  # Gymnasium knows it already, or will refuse
        return True
    try:
        found = importlib.util.find_spec(package)  # imports nothing
    except ValueError:  # the running program
        return True
    found = found or PathFinder.find_spec(package, [os.getcwd()])
    if found is None:
        return True  # there is nothing to import, which is reported where it is created
    files = [*(found.submodule_search_locations or []), *filter(None, [found.origin])]
    roots = [*site.getsitepackages(), site.getusersitepackages()]
    return all(any(Path(file).is_relative_to(root) for root in roots) for file in files)
