"""Commands, options, files, links and messages that README and docs name exist. Commands are run by
test_shell_blocks.py, Python blocks by test_python_blocks.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, README, ROOT, blocks, words_after

import worldmodel
from worldmodel.aggregate.command import AggregateOptions
from worldmodel.cli.eval import parse_eval
from worldmodel.cli.sweep import plan_sweep
from worldmodel.cli.train import training_help
from worldmodel.config import Config, EvalConfig
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import GROUPS, build_config, choices_of
from worldmodel.config.io import save_config
from worldmodel.config.option import Option, iter_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, every_schema
from worldmodel.play import command as play
from worldmodel.play.options import PlayOptions

CONFIGS = ROOT / "configs"
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "worldmodel").rglob("*.py")))


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def inline() -> list[str]:
    """Every piece of `code` in the text of every page."""
    return [code for text in PAGES.values() for code in re.findall(r"`([^`\n]+)`", prose(text))]


def every_option() -> Iterator[Option]:
    roots = (Config(), EvalConfig(), PlayOptions(), AggregateOptions())
    groups = [(schema(), f"{group}.") for group, _, schema in every_schema()]
    for options, prefix in [*((root, "") for root in roots), *groups]:
        yield from (option for option, _ in iter_options(options, prefix))


# ---------------------------------------------------------------------------------------- commands


def test_training_commands_are_accepted():
    given = words_after("python train.py")
    assert len(given) > 8
    for words in given:
        if "--help" in words:
            assert "Exit status" in training_help(CONFIGS, words[1:], "")
        elif "--multirun" in words:
            plan_sweep(CONFIGS, words[1:])
        else:
            build_config(CONFIGS, parse_overrides(words))


def test_evaluation_and_play_commands_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NAME", "A", "B"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        save_config(build_config(CONFIGS, []), run / "config.yaml")
    monkeypatch.chdir(tmp_path)
    given = [words for words in words_after("python eval.py") if words]
    assert given
    for words in given:
        parse_eval(words)
    played = words_after("python -m worldmodel.play")
    assert played
    for words in played:
        play.parse(words)


def test_scripts_and_their_flags_exist():
    given = words_after("python benchmarks/")
    assert given
    for script, *words in given:
        source = (ROOT / "benchmarks" / script).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, f"{script} has no {flag}"


def test_every_extra_is_documented_and_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r"\.\[([\w,]+)\]", "\n".join(PAGES.values())))
    assert {extra for names in named for extra in names.split(",")} == set(
        project["optional-dependencies"]
    )


def test_options_named_in_the_text_exist_and_accept_their_values():
    known: dict[str, list[Option]] = {}
    for option in every_option():
        known.setdefault(option.key, []).append(option)
    words = [code for code in inline() if re.fullmatch(r"[a-z_.]+=[^\s|]+", code)]
    assert len(words) > 10
    for word in words:
        key, _, text = word.partition("=")
        if key in GROUPS:
            assert text in (*choices_of(CONFIGS, key), "NAME", "FORMAT"), word
        elif word not in ("rewards=None", "seed=0,1"):  # Python; a sweep
            (override,) = parse_overrides([word])
            assert key in known, word
            assert any(o.error_in(o.convert(override.value())) is None for o in known[key]), word


def test_dotted_names_in_the_text_are_options_or_groups_of_options():
    known = {option.key for option in every_option()}
    known |= {key.rpartition(".")[0] for key in known}
    groups = "|".join((*SCHEMA_GROUPS, *FIXED))
    for code in inline():
        if re.fullmatch(rf"({groups})\.[a-z_.]+", code) and not code.endswith(".py"):
            assert code in known, code


# ------------------------------------------------------------------------------------------- names


def test_files_named_in_the_text_exist():
    places = r"(worldmodel|configs|tests|benchmarks|docs|launch)/\S*"
    named = [code for code in inline() if re.fullmatch(places, code)]
    assert len(named) > 10
    assert [c for c in named if "NAME" not in c and not (ROOT / c).exists()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_to_files(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose(PAGES[page])) if "://" not in link]
    folder = (ROOT / page).parent
    assert [link for link in links if not (folder / link.partition("#")[0]).exists()] == []


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert navigation == {page[5:] for page in PAGES if page.startswith("docs/")}


def test_the_layout_lists_every_package():
    layout = PAGES["docs/design.md"].partition("## Layout")[2]
    listed = re.findall(r"^  (\w+)(?:\.py|/)", layout, re.M)
    folder = ROOT / "worldmodel"
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert sorted(listed) == sorted(packages | ({"errors"} & {p.stem for p in folder.glob("*.py")}))


def test_messages_under_troubleshooting_are_those_of_the_code():
    messages = re.findall(r"^\| `([^`]+)`", PAGES["docs/reference/troubleshooting.md"], re.M)
    assert len(messages) > 10
    assert [message for message in messages if message not in SOURCE] == []


def test_exit_statuses_are_those_of_the_code():
    listed = re.findall(r"^\| (\d+) \|", PAGES["docs/reference/exit_statuses.md"], re.M)
    assert set(listed) == {"0", "1", "2", "74", "75", "130"}


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {worldmodel.__version__}\n" in citation
    assert f"{{{worldmodel.__version__}}}" in README


def test_the_readme_stays_short():
    assert 150 <= len(README.splitlines()) <= 200


def test_every_block_is_tested():
    """Blocks of text show output; all others are tested here or in a file named above."""
    kinds = [kind for text in PAGES.values() for kind in re.findall(r"^ *```(\w+)", text, re.M)]
    assert set(kinds) <= {"python", "sh", "text", "diff"}
    for kind in ("python", "sh", "diff"):
        assert kinds.count(kind) == sum(len(blocks(text, kind)) for text in PAGES.values())
