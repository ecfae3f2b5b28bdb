"""Run folders that hold anything but what an evaluation leaves: named and refused in words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import POLICIES, TASKS, returns_of, write_evaluated_run

from worldmodel.aggregate.command import run as aggregate
from worldmodel.data.spec import DataSpec
from worldmodel.system.exit_status import run_cli

RESULTS, EPISODES = "evaluation/results.json", "evaluation/episodes.jsonl"
NOT_JSON = ["", "{", "null", "[]", "1", '"x"', "\0\0", b"\xff\xfe", "[" * 100_000, "NaN"]


def edited(run: Path, name: str, keys: tuple[str, ...], value: Any) -> None:
    """Sets an entry of a JSON file."""
    content = json.loads((run / name).read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (run / name).write_text(json.dumps(content))


def refusal(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_cli(lambda: aggregate([f"runs=[{run}]"])) in (2, 74)
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, walker_spec: DataSpec) -> Path:
    folder, returns = tmp_path_factory.mktemp("runs"), returns_of("td3_bc", "Hopper-v5", 2)
    return write_evaluated_run(
        folder, walker_spec, "whole", POLICIES["td3_bc"], "Hopper-v5", returns,
        reference=TASKS["Hopper-v5"],
    )  # fmt: skip


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of a run that was evaluated."""
    for name in ("config.yaml", "spec.json", RESULTS, EPISODES):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes((whole / name).read_bytes())
    return tmp_path / "run"


@pytest.mark.parametrize("content", NOT_JSON)
@pytest.mark.parametrize("name", [RESULTS, EPISODES, "spec.json"])
def test_a_damaged_file_is_named(run: Path, name: str, content: str | bytes, capsys: Any) -> None:
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refusal(run, capsys)
    assert str(run / name) in error or f"{run / 'evaluation'}: episodes.jsonl and" in error


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "link", "loop"])
@pytest.mark.parametrize("name", ["config.yaml", RESULTS, EPISODES, "spec.json"])
def test_what_is_no_file_is_named(run: Path, name: str, kind: str, capsys: Any) -> None:
    path = run / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    error = refusal(run, capsys)
    assert str(run) in error and path.name in error


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *((("returns",), x) for x in (None, [], "policy", 3, {"policy": None}, {"policy": []})),
        *((("returns", "policy", "value"), x) for x in ("x", [1], {}, True)),
        *((("config",), x) for x in (None, [], {}, "x", 3)),
        *((("config", "seed"), x) for x in (None, "x", [1], float("inf"))),
        *((("config", "evaluation"), x) for x in (None, [], {"episodes": "many"})),
        *((("config", "training"), x) for x in (None, 3, {})),
        *((("environment",), x) for x in (None, [], 3)),
        *((("stage",), x) for x in (None, 3, [], "none")),
        *((("step",), x) for x in (None, "x", [], float("nan"))),
        *((("last",), x) for x in (3, [], {})),
        *((("reference",), x) for x in (3, [], {}, {"name": "a"})),
        *((("reference", "min"), x) for x in (None, "x", [], float("nan"), 1e9)),
    ],
)
def test_a_wrong_entry_is_named_with_its_file(
    run: Path, keys: tuple[str, ...], value: Any, capsys: Any
) -> None:
    edited(run, RESULTS, keys, value)
    assert str(run) in refusal(run, capsys)


@pytest.mark.parametrize("fingerprint", [None, [], 3])
def test_a_fingerprint_is_text(run: Path, fingerprint: Any, capsys: Any) -> None:
    edited(run, "spec.json", ("fingerprint",), fingerprint)
    assert f"{run / 'spec.json'} is damaged" in refusal(run, capsys)


@pytest.mark.parametrize(
    "change",
    [{"return": "x"}, {"return": [1.0]}, {"return": 10**400}, {"training_seed": None},
     {"training_seed": "one"}, {"agent": None}, {"agent": []}],
)  # fmt: skip
def test_a_wrong_row_is_named_with_its_file(run: Path, change: dict[str, Any], capsys: Any) -> None:
    first, *others = (run / EPISODES).read_text().splitlines()
    changed = json.dumps(json.loads(first) | change)
    (run / EPISODES).write_text("\n".join([changed, *others]) + "\n")
    assert str(run / "evaluation") in refusal(run, capsys)


def test_folders_without_runs_are_named(tmp_path: Path, run: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("empty", "file", "nowhere", "a" * 300, "empt[y]"):
        assert str(tmp_path / name) in refusal(tmp_path / name, capsys)
