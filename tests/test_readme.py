"""What the README and docs tell a reader to type is accepted, and what they name exists; that shell
commands run is shown by test_shell_blocks.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pages import PAGES, README, ROOT, blocks, words_after

from worldmodel.aggregate.options import AggregateOptions
from worldmodel.cli.eval import parse_eval
from worldmodel.cli.sweep import check_sweep
from worldmodel.cli.train import training_help
from worldmodel.config import Config, EvalConfig
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import GROUPS, build_config
from worldmodel.config.io import save_config
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, every_schema
from worldmodel.config.values import Option, iter_options
from worldmodel.data import load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.play import command as play
from worldmodel.play.options import PlayOptions

CONFIGS = ROOT / "configs"
SOURCE = "\n".join(path.read_text() for path in sorted((ROOT / "worldmodel").rglob("*.py")))
WRITES, USES, DREAMS = range(3)  # the README's Python blocks, in order


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def inline() -> list[str]:
    """Every piece of `code` in the text of every page."""
    return [code for text in PAGES.values() for code in re.findall(r"`([^`\n]+)`", prose(text))]


def every_option() -> Iterator[Option]:
    for options, prefix in (
        [(Config(), ""), (EvalConfig(), "")]
        + [
            (PlayOptions(), ""),
            (AggregateOptions(), ""),
        ]
        + [(schema(), f"{group}.") for group, _, schema in every_schema()]
    ):
        yield from (option for option, _ in iter_options(options, prefix))


# ---------------------------------------------------------------------------------------- commands


def test_the_training_commands_are_accepted():
    given = words_after("python train.py")
    assert len(given) > 8
    for words in given:
        if "--help" in words:
            assert "Exit status" in training_help(CONFIGS, words[1:], "")
        elif "--multirun" in words:
            check_sweep(CONFIGS, words[1:])
        else:
            build_config(CONFIGS, parse_overrides(words))


def test_the_evaluation_and_play_commands_are_accepted(
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


def test_the_scripts_and_their_flags_exist():
    given = words_after("python benchmarks/")
    assert given
    for script, *words in given:
        source = (ROOT / "benchmarks" / script).read_text()
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in source, f"{script} has no {flag}"


def test_the_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = set(re.findall(r"\.\[(\w+)\]", README))
    assert named == set(extras)


def test_the_options_named_in_the_text_exist_and_accept_their_values():
    known: dict[str, list[Option]] = {}
    for option in every_option():
        known.setdefault(option.key, []).append(option)
    words = [code for code in inline() if re.fullmatch(r"[a-z_.]+=\S+", code)]
    assert len(words) > 10
    for word in words:
        key, _, text = word.partition("=")
        if key in GROUPS:
            assert (CONFIGS / key / f"{text}.yaml").exists(), word
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


def test_the_files_named_in_the_text_exist():
    named = [c for c in inline() if re.fullmatch(r"(worldmodel|configs|tests|benchmarks)/\S*", c)]
    assert len(named) > 10
    assert [c for c in named if not (ROOT / c).exists()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_layout_names_what_there_is():
    layout = README.partition("## Layout")[2]
    parts = re.findall(r"^  (\w+(?:\.py|/))", layout, re.M)
    assert len(parts) > 8
    assert [part for part in parts if not (ROOT / "worldmodel" / part).exists()] == []


def test_the_messages_under_troubleshooting_are_those_of_the_code():
    table = README.partition("## Troubleshooting")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `([^`]+)`", table, re.M)
    assert len(messages) > 10
    assert [message for message in messages if message not in SOURCE] == []


# ------------------------------------------------------------------------------------------ Python


def test_logs_written_as_the_readme_says_can_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks(README, "python")[WRITES], names)
    (command,) = [words for words in words_after("python train.py") if "data=tfds" in words][:1]
    config = build_config(CONFIGS, parse_overrides(command))
    assert isinstance(config.data, TFDSData)
    logs = load(config.data)
    assert (logs.num_episodes, logs.num_transitions) == (20, 2000)
    assert logs.action_spec == names["bounds"]
    np.testing.assert_array_equal(
        logs.observations["position"], names["logs"].observations["position"]
    )
    np.testing.assert_array_equal(logs.rewards, names["logs"].rewards)


def executed(number: int, run: Path) -> dict:
    """What a Python block of the README names in the end, with `run` where it looks for one."""
    block = blocks(README, "python")[number]
    (path,) = re.findall(r'load\("([^"]+)"\)', block)
    Path(path).parent.mkdir()
    Path(path).symlink_to(run)
    names: dict = {}
    exec(block, names)
    return names


def test_a_run_can_be_used_as_the_readme_says(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(USES, smoke_run)
    assert names["future"]["observation"].shape == (1, 8, 15, 3)
    assert names["rollout"].rewards.shape == (4, 15)
    assert np.isfinite(names["rollout"].rewards).all()


def test_a_run_can_be_dreamed_as_the_readme_says(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = executed(DREAMS, smoke_run)
    assert names["observations"].shape == (64, 3) and np.isfinite(names["rewards"]).all()


def test_every_block_is_run_here_or_in_test_shell_blocks():
    languages = [kind for text in PAGES.values() for kind in re.findall(r"^ *```(\w+)", text, re.M)]
    assert set(languages) == {"python", "sh", "text"}
    assert languages.count("python") == len(blocks(README, "python")) == DREAMS + 1
    assert languages.count("sh") == sum(len(blocks(text, "sh")) for text in PAGES.values())
