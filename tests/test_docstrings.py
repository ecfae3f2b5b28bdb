"""The examples in the docstrings of the public API run, and print what they state."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

MODULES = (
    "worldmodel",
    "worldmodel.config.registry",
    "worldmodel.data",
    "worldmodel.dream",
    "worldmodel.imagination",
    "worldmodel.models",
)
COMPLETE = ("worldmodel.data",)  # modules in which every class and function has an example
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def exported(name: str) -> dict[str, Any]:
    """What a module exports: the names in `__all__`, or else those that it defines."""
    module = importlib.import_module(name)
    defined = [key for key, value in vars(module).items() if inspect.getmodule(value) is module]
    names = getattr(module, "__all__", [key for key in defined if not key.startswith("_")])
    return {f"{name}.{key}": getattr(module, key) for key in names}


def examples_of(module: str) -> list[doctest.DocTest]:
    """The examples of a module's exports, those of their methods included."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for key, value in exported(module).items() for t in finder.find(value, key, False)]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """An example that names `runs/smoke-0` finds that run; others run in an empty folder."""
    for test in examples_of(module):
        folder = tmp_path
        if any("runs/smoke-0" in example.source for example in test.examples):
            folder = request.getfixturevalue("smoke_run").parent.parent
        monkeypatch.chdir(folder)
        printed: list[str] = []
        results = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=printed.append)
        assert results.failed == 0, "".join(printed)


@pytest.mark.parametrize("module", COMPLETE)
def test_every_export_has_an_example(module: str) -> None:
    shown = {test.name for test in examples_of(module)}
    missing = [
        key
        for key, value in exported(module).items()
        if callable(value) and not any(name == key or name.startswith(f"{key}.") for name in shown)
    ]
    assert missing == []
