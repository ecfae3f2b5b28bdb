"""A run's config.yaml may come from others: whatever it holds, it is read or refused, runs nothing,
and takes little time.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from composing import build

import worldmodel
from worldmodel.cli.eval import parse_eval
from worldmodel.config.environment_ids import local_code
from worldmodel.config.io import load_config, save_config
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import ConfigError

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{chr(i + 1)}: &{chr(i + 1)} [*{chr(i)}, *{chr(i)}, *{chr(i)}]\n" for i in range(97, 121)
)
APPENDED = {  # name -> lines after a valid config
    "null byte": "\x00", "bell": "x: \x07\n", "expanding aliases": BOMB, "cycle": "x: &x [*x]\n",
    "deep list": "x: " + "[" * 5000, "deep map": "x: " + "{a: " * 100 + "1" + "}" * 100,
    "deep block": "x:\n" + "".join(" " * i + "- \n" for i in range(1, 60)),
    "many values": "x: [" + "1," * 200_000 + "1]\n", "large": "x: " + "y" * 5_000_000 + "\n",
    "python object": 'x: !!python/object/apply:os.system ["touch ran"]\n',
    "python name": "x: !!python/name:os.system\n", "python module": "x: !!python/module:ran\n",
    "python new": "x: !!python/object/new:os.system [touch ran]\n", "own tag": "x: !ran y\n",
    "merged scalar": "<<: 3\n", "list as key": "? [a, b]\n: 1\n", "number as key": "1: 2\n",
    "not a number as key": ".nan: 2\n", "date as key": "2001-01-01: 2\n", "dots as key": '".": 2\n',
    "escape as key": '"\\e[31m": 2\n', "long key": '"' + "k" * 100_000 + '": 2\n',
    "two documents": "---\nseed: 1\n", "tab": "\tx: 1\n", "target": "_target_: os.system\n",
}  # fmt: skip
REPLACED = [  # a line of the config, and another one in its place
    *(("seed: 0", f"seed: {value}") for value in (
        "9" * 5000, "9" * 40, "2001-99-99", "2001-01-01 99:99:99", "!!int x", "!!float x", "???",
        "!!bool x", '!!int ""', "!!timestamp x", "!!binary '@'", "!!set {a}", ".nan", ".inf",
        "${oc.env:HOME}", "[0]", "{a: 0}", "null", "'0'",
    )),
    *(("version: .*", f"version: {value}") for value in (
        "[1]", "{a: 1}", ".nan", "0.9", "9." * 100_000, '"\\e[31m"',
    )),
    *(("name: smoke-0", f"name: {value}") for value in (
        "null", '"a\\0b"', '"\\e]0;x\\a"', '"\\ud800"', "../x", "[x]", '""', "${oc.env:HOME}",
    )),
    ("  name: rssm", '  name: "\\e[31m"'), ("  name: actor_critic", "  name: ../x"),
    *(("runs_dir: runs", f"runs_dir: {value}") for value in ('"a\\0b"', '"\\ud800"', '""', "[x]")),
    *(("  data: null", f"  data: {value}") for value in (
        "{1: 2}", "{format: [1]}", "{format: {a: 1}}", "{format: 3}", "{path: {a: 1}}", "[1]",
        "{null: 1}", '{format: npz, path: "\\0"}', "{a: {b: {c: 1}}}", "{? [1] : 2}",
    )),
    *((f"  {group}: .*", f"  {group}: {value}") for group in ("model", "policy") for value in (
        "[1]", "{a: 1}", "3", '"\\e[31m"', "nope", "z" * 100_000,
    )),
    *((f"(?s)\n{group}:\n.*?\n(?! )", f"\n{group}: {value}\n") for group in (
        "data", "model", "training", "evaluation",
    ) for value in ("null", "[]", "3", "{name: [1]}", "{name: {a: 1}}")),
    ("  environment: Pendulum-v1", "  environment: ':::'"),
]  # fmt: skip


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], str]:
    """The message for a config.yaml with this content; any other exception is a failure."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ran.py").write_text("open('ran', 'w')")
    path = tmp_path / "run" / "config.yaml"
    save_config(build("experiment=smoke"), path)
    load_config(path)

    def message(content: str | bytes) -> str:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        began = time.process_time()
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        assert time.process_time() - began < 2 and not Path("ran").exists()
        return str(raised.value)

    return message


@pytest.fixture
def valid(refusal: Callable[[str | bytes], str], tmp_path: Path) -> str:
    return (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("name", APPENDED)
def test_a_config_with_odd_lines_is_refused(
    name: str, valid: str, refusal: Callable[[str | bytes], str]
) -> None:
    assert "config.yaml: " in refusal(valid + APPENDED[name])


def test_a_config_with_odd_values_is_refused(
    valid: str, refusal: Callable[[str | bytes], str]
) -> None:
    for line, other in REPLACED:
        edited = re.sub(line, lambda _, other=other: other, valid, count=1)
        assert edited != valid, line
        assert "run" in refusal(edited)
    for content in ("", "null\n", "- 1\n", "text", valid.encode("utf-16"), b"x: caf\xe9\n"):
        assert "config.yaml: " in refusal(content)


def test_a_config_that_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="accepts a regular file of at most 4,194,304 bytes"):
            load_config(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml")


def test_thousands_of_columns_are_no_attack(tmp_path: Path) -> None:
    config = build("experiment=smoke")
    bounds = [0.25] * 2_000
    config.data = NPZData(path="a", action_low=bounds, action_high=[1.0] * 2_000)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").data.action_low == bounds


# ----------------------------------------------------------------------------- code of environments


def test_environments_of_installed_packages_alone_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "envs.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = build("experiment=smoke", "data.environment=mine:X-v0")
    assert [line.partition(":")[0] for line in local_code(config)] == ["data.environment=mine"]
    for name in ("folder.envs:X-v0", "mine:a/X-v0"):
        config.data.environment, config.evaluation.data = None, {"environment": name}
        assert "evaluation.data.environment=" in next(local_code(config))
    trusted = ["Pendulum-v1", "gymnasium.envs:Pendulum-v1", "absent:X-v0", "__main__:X"]
    for name in (*trusted, "worldmodel.dream:worldmodel/Dream-v0"):
        config.evaluation.data = {"environment": name}
        assert not list(local_code(config)), name
    assert "mine" not in sys.modules and "folder" not in sys.modules


def test_a_run_that_names_other_code_is_loaded_only_if_that_is_allowed(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config(run / "config.yaml")
    config.data.environment = "mine:X-v0"
    save_config(config, run / "config.yaml")
    with pytest.raises(ConfigError, match=r"data.environment=mine:X-v0: .* add allow_code=true"):
        worldmodel.load(run)
    assert worldmodel.load(run, allow_code=True).step == 60
    assert parse_eval([f"run={run}", "allow_code=true"]).allow_code
