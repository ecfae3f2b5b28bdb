"""The reference pages that are generated from the code name everything that it has."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
from pages import PAGES, ROOT

from worldmodel.config.compose import choices_of
from worldmodel.config.option import iter_options
from worldmodel.config.registry import SCHEMA_GROUPS, every_schema


def module(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


generate = module("generate")


@pytest.mark.parametrize("page", [p for p, text in PAGES.items() if "<!-- generated" in text])
def test_every_mark_is_replaced(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "COMMANDS", ("eval.py",))  # the others take as long each
    text = generate.on_page_markdown(PAGES[page])
    assert "<!-- generated" not in text and len(text) > len(PAGES[page])


def test_every_option_has_a_row_with_what_it_accepts():
    rows = set(re.findall(r"^\| `([\w.]+)` \| [^|]+ \| [^|]+ \|", generate.option_tables(), re.M))
    wanted = {
        option.key
        for group, _, schema in every_schema()
        for option, _ in iter_options(schema(), f"{group}.")
    }
    assert wanted <= rows and {"name", "seed", "runs_dir", "fresh"} <= rows


def test_every_choice_is_listed_with_what_it_sets():
    text = generate.choice_tables()
    for group in SCHEMA_GROUPS:
        for choice in choices_of(ROOT / "configs", group):
            assert f"| `{group}={choice}` |" in text
    (mopo,) = re.findall(r"^\| `policy=mopo` \| (.*) \|$", text, re.M)
    assert "`model=ensemble`" in mopo and "`policy.penalty=max_aleatoric`" in mopo
    assert "`training.policy.steps=20000`" in mopo


def test_every_experiment_is_described_by_its_own_comment():
    text = generate.experiments()
    for path in (ROOT / "configs" / "experiment").glob("*.yaml"):
        section = text.partition(f"### experiment={path.stem}\n")[2].partition("###")[0]
        assert "python" in section and "Expect" in section, path.name


def test_lines_of_docstrings_that_explain_arguments_become_a_list():
    pytest.importorskip("griffe")  # comes with the extra `docs`
    docstrings = module("docstrings")
    text = "Rolls out.\n\nstart: (B, ...)\nactor: gives\n    actions\n\nExample:\n    >>> 1\n    1"
    assert docstrings.to_markdown(text) == (
        "Rolls out.\n\n- **start**: (B, ...)\n- **actor**: gives\n    actions\n\n"
        "Examples:\n    >>> 1\n    1"
    )
