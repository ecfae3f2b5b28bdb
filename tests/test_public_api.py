"""The names that the package exports at its top."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest
from pages import ROOT

import worldmodel

INIT = ROOT / "worldmodel" / "__init__.py"


def test_every_export_is_the_object_that_type_checkers_see() -> None:
    visible = {
        alias.name: node.module
        for node in ast.walk(ast.parse(INIT.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("worldmodel.")
        for alias in node.names
    }
    assert sorted(visible) == worldmodel.__all__
    for name, module in visible.items():
        assert getattr(worldmodel, name) is getattr(importlib.import_module(str(module)), name)
    assert (INIT.parent / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        worldmodel.lod  # noqa: B018


def test_importing_the_package_does_not_import_jax() -> None:
    program = "import sys, worldmodel; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False"], done.stderr
