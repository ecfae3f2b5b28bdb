"""Ids of Gymnasium environments, `ID` or `package.module:ID`: their form, and whose code they run.

Gymnasium imports the module of such an id. The user's own command may name any; a run that came
from elsewhere only one of an installed package.
"""

from __future__ import annotations

import importlib.util
import re
import site
from collections.abc import Iterator
from pathlib import Path

from worldmodel.config.option import iter_options

FORM = re.compile(r"((?P<package>[^\W\d]\w*)(\.[^\W\d]\w*)*:)?([\w.-]+/)*[\w.-]+")


def environments_in(options: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and id of every environment that is named below a dataclass of options."""
    for option, value in iter_options(options, prefix):
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
    if found is None:
        return True  # there is nothing to import, which is reported where it is created
    files = [*(found.submodule_search_locations or []), *filter(None, [found.origin])]
    roots = [*site.getsitepackages(), site.getusersitepackages()]
    return all(any(Path(file).is_relative_to(root) for root in roots) for file in files)
