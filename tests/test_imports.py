"""Packages import one way: only what stands before them in `ORDER`, and no files in a circle.

Imports inside functions and under TYPE_CHECKING count too: they tie files together all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pages import ROOT

PACKAGE = ROOT / "worldmodel"
ORDER = (
    "errors", "system", "config", "data", "environments", "nn", "models", "imagination", "planning",
    "policies", "dream", "runs", "status", "training", "evaluation", "aggregate", "loading", "play",
    "cli",
)  # fmt: skip


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(module: str, tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it that stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in MODULES and a.name != module)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


GRAPH = {
    module: set(imported(module, ast.parse(path.read_text()))) - {"worldmodel"}
    for module, path in MODULES.items()
}


def package_of(module: str) -> str:
    return module.split(".")[1]


def test_no_module_is_loose_at_the_root_of_the_package():
    loose = {path.name for path in PACKAGE.glob("*.py")}
    assert loose == {"__init__.py", "errors.py"}


def test_every_package_has_its_place_in_the_order():
    assert {package_of(m) for m in MODULES if m != "worldmodel"} == set(ORDER)


def test_no_import_runs_up():
    rank = {name: i for i, name in enumerate(ORDER)}
    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in sorted(others)
        if module != "worldmodel" and rank[package_of(other)] > rank[package_of(module)]
    ]
    assert upward == []


def test_no_imports_run_in_a_circle():
    """A package's own __init__ gathers what its files define, so it may name files that name it."""
    plain = {m: o - {m.rpartition(".")[0]} for m, o in GRAPH.items()}
    try:
        TopologicalSorter(plain).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
