"""A damaged run is refused in a few lines by every command, and no byte of it changes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldmodel
from worldmodel.cli.eval import run_evaluation
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.errors import CheckpointError
from worldmodel.runs.directory import RunDirectory, read_metrics, run_lock
from worldmodel.runs.integrity import VERSION, with_checksum
from worldmodel.system.exit_status import run_cli

ROOT = Path(__file__).parents[2]
Damage = Callable[[Path], Any]


def text(name: str, content: str | bytes) -> Damage:
    """Other content for a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda run: (run / name).write_bytes(data)


def cut(name: str) -> Damage:
    return lambda run: os.truncate(run / name, (run / name).stat().st_size // 2)


def replaced(name: str, old: str, new: str) -> Damage:
    def damage(run: Path) -> None:
        content = (run / name).read_text()
        assert old in content
        (run / name).write_text(content.replace(old, new, 1))

    return damage


def missing(name: str) -> Damage:
    def damage(run: Path) -> None:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def folder(name: str) -> Damage:
    """A folder where a file should be."""
    return lambda run: ((run / name).unlink(missing_ok=True), (run / name).mkdir())


def file(name: str) -> Damage:
    """A file where a folder should be."""
    return lambda run: (missing(name)(run), (run / name).write_text("?"))


def edited(name: str, edit: Callable[[Any], Any]) -> Damage:
    """Valid JSON with other contents."""

    def damage(run: Path) -> None:
        value = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(edit(value)))

    return damage


def without(*keys: str) -> Callable[[Any], Any]:
    def edit(value: Any) -> Any:
        *path, last = keys
        inner = value
        for key in path:
            inner = inner[key]
        del inner[last]
        return value

    return edit


def every(pattern: str, damage: Callable[[Path], Any]) -> Damage:
    return lambda run: [damage(path) for path in sorted(run.glob(pattern))]


def line(number: int, content: str) -> Damage:
    def damage(run: Path) -> None:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        lines[number] = content
        (run / "metrics.jsonl").write_text("".join(lines))

    return damage


def newer(meta: Path) -> None:
    value = json.loads(meta.read_text()) | {"version": VERSION + 1}
    value.pop("crc32")
    meta.write_text(json.dumps(with_checksum(value)))


POLICY, MODEL = "checkpoints/policy", "checkpoints/world_model"
CONFIG, SPEC, SUMMARY = "config.yaml", "spec.json", "summary.json"
KEEP, KEEP_OPTION = "max_to_keep: 2", "training.max_to_keep"

# What is damaged -> how, and what the error names besides the path
BOTH: dict[str, tuple[Damage, str]] = {
    "config empty": (text(CONFIG, ""), CONFIG),
    "config cut": (cut(CONFIG), CONFIG),
    "config binary": (text(CONFIG, bytes(range(256))), CONFIG),
    "config a list": (text(CONFIG, "- 1\n- 2\n"), CONFIG),
    "config a word": (text(CONFIG, "hello\n"), CONFIG),
    "config with a tab": (replaced(CONFIG, "seed:", "\tseed:"), CONFIG),
    "config with an open bracket": (replaced(CONFIG, "seed: 0", "seed: ["), CONFIG),
    "config with code": (
        replaced(CONFIG, "seed: 0", "seed: !!python/object/apply:os.system [exit]"), "config.yaml"
    ),
    "config of an unknown reference": (replaced(CONFIG, "seed: 0", "seed: ${no}"), CONFIG),
    "unknown option": (replaced(CONFIG, "max_to_keep:", "max_to_keeep:"), "max_to_keeep"),
    "option of a wrong type": (replaced(CONFIG, KEEP, "max_to_keep: two"), KEEP_OPTION),
    "option out of range": (replaced(CONFIG, KEEP, "max_to_keep: 0"), KEEP_OPTION),
    "option that is null": (replaced(CONFIG, KEEP, "max_to_keep: null"), KEEP_OPTION),
    "group a number": (replaced(CONFIG, "logging:", "logging: 3\nloging:"), "loging"),
    "unknown schema": (replaced(CONFIG, "policy: bc", "policy: clone"), "policy=clone"),
    "schema of another family": (replaced(CONFIG, "model: mlp", "model: rssm"), "model."),
    "config a folder": (folder(CONFIG), "small"),
    "spec empty": (text(SPEC, ""), SPEC),
    "spec cut": (cut(SPEC), SPEC),
    "spec binary": (text(SPEC, bytes(range(256))), SPEC),
    "spec a list": (text(SPEC, "[]"), SPEC),
    "spec of nothing": (text(SPEC, "{}"), SPEC),
    "spec null": (edited(SPEC, lambda s: s | {"spec": None}), SPEC),
    "spec without actions": (edited(SPEC, without("spec", "action")), SPEC),
    "spec without observations": (edited(SPEC, without("spec", "observations")), SPEC),
    "spec with words for shapes": (replaced(SPEC, '"shape": [', '"shape": ["a",'), SPEC),
    "spec a folder": (folder(SPEC), SPEC),
    "checkpoints a file": (file("checkpoints"), "checkpoint"),
    "every checkpoint cut": (
        every("checkpoints/*/*/meta/metadata", lambda p: os.truncate(p, 9)),
        "all checkpoints are damaged",
    ),
    "every checkpoint empty": (
        every("checkpoints/*/*", lambda p: (shutil.rmtree(p), p.mkdir())),
        "all checkpoints are damaged",
    ),
    "checkpoints without arrays": (
        every("checkpoints/*/*/state", shutil.rmtree), "all checkpoints are damaged"
    ),
    "a newer checkpoint format": (
        every("checkpoints/*/*/meta/metadata", newer), "newer version",
    ),
    "another stage's checkpoints": (
        lambda run: (shutil.rmtree(run / POLICY), shutil.copytree(run / MODEL, run / POLICY)),
        "of another model",
    ),
}  # fmt: skip

TRAINING: dict[str, tuple[Damage, str]] = {
    "config missing": (missing(CONFIG), "not a run"),
    "another seed": (replaced(CONFIG, "seed: 0", "seed: 1"), "seed: 1 -> 0"),
    "another model": (
        replaced(CONFIG, "linear_skip: false", "linear_skip: true"), "model.linear_skip"
    ),
    "spec of other data": (edited(SPEC, lambda s: s | {"fingerprint": "0"}), "the data differ"),
    "summary empty": (text(SUMMARY, ""), SUMMARY),
    "summary cut": (cut(SUMMARY), SUMMARY),
    "summary binary": (text(SUMMARY, bytes(range(256))), SUMMARY),
    "summary a list": (text(SUMMARY, "[]"), SUMMARY),
    "summary of a list of stages": (text(SUMMARY, '{"stages": []}'), SUMMARY),
    "summary of a stage null": (text(SUMMARY, '{"stages": {"policy": null}}'), SUMMARY),
    "summary a folder": (folder(SUMMARY), SUMMARY),
    "metrics binary": (text("metrics.jsonl", bytes(range(256))), "metrics.jsonl"),
    "metrics with a garbage row": (line(1, "garbage\n"), "metrics.jsonl: row 2"),
    "metrics with an empty row": (line(2, "\n"), "metrics.jsonl: row 3"),
    "metrics with a cut row": (line(0, '{"stage": "wor\n'), "metrics.jsonl: row 1"),
    "metrics with a row of no stage": (line(3, '{"step": 20}\n'), "metrics.jsonl: row 4"),
    "metrics with a step that is a word": (
        line(3, '{"stage": "policy", "step": "x"}\n'), "metrics.jsonl: row 4"
    ),
    "metrics with a list": (line(0, "[1]\n"), "metrics.jsonl: row 1"),
    "metrics with zeros": (line(0, "\0" * 64 + "\n"), "metrics.jsonl: row 1"),
    "metrics a folder": (folder("metrics.jsonl"), "metrics.jsonl"),
    "a stage's checkpoints a file": (file(MODEL), "checkpoints/world_model"),
}  # fmt: skip

EVALUATION: dict[str, tuple[Damage, str]] = {
    "config missing": (missing(CONFIG), "not a run directory"),
    "spec missing": (missing(SPEC), SPEC),
    "checkpoints missing": (missing("checkpoints"), "no checkpoint 'last'"),
    "no checkpoints": (every("checkpoints/*", shutil.rmtree), "no checkpoint 'last'"),
    "a stage's checkpoints files": (
        lambda run: (file(MODEL)(run), file(POLICY)(run)), "no checkpoint 'last'"
    ),
}  # fmt: skip


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    """The folder of a real, finished run, to be damaged."""
    copy = Path(shutil.copytree(small_run, tmp_path / "runs[v2]" / small_run.name))
    replaced(CONFIG, str(small_run.parent), str(copy.parent))(copy)
    return copy


def contents(folder: Path) -> dict[str, bytes | None]:
    """All but the heartbeat, which reports how the last command ended."""
    paths = (p for p in folder.rglob("*") if p.name != "heartbeat.json")
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


Train = Callable[..., int]


@pytest.fixture(scope="module")
def train(train_words: Callable[..., list[str]]) -> Train:
    """Trains on in a copy of the run, as train.py does, but in this process and without the
    evaluation.
    """
    from worldmodel.training.run import train as job

    config = build_config(ROOT / "configs", parse_overrides(train_words()))

    def train(run: Path, fresh: bool = False) -> int:
        changed = replace(config, runs_dir=str(run.parent), fresh=fresh)
        return run_cli(lambda: job(changed, lambda run: 0))

    return train


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    from worldmodel.loading import evaluate_run

    monkeypatch.setattr(sys, "argv", ["eval.py", *words])
    return run_evaluation(
        lambda request: evaluate_run(*request.runs, request.checkpoint, **request.evaluation), ""
    )


Captured = pytest.CaptureFixture[str]


def assert_refused(status: int, run: Path, words: str, capsys: Captured) -> None:
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: "), error
    assert words in error and str(run) in error, error


@pytest.mark.parametrize("kind", [*BOTH, *TRAINING])
def test_training_refuses_a_damaged_run(
    copy: Path, kind: str, train: Train, capsys: Captured
) -> None:
    damage, words = (BOTH | TRAINING)[kind]
    damage(copy)
    before = contents(copy.parent)
    assert_refused(train(copy), copy, words, capsys)
    assert contents(copy.parent) == before


@pytest.mark.parametrize("kind", [*BOTH, *EVALUATION])
def test_evaluation_refuses_a_damaged_run(
    copy: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    damage, words = (BOTH | EVALUATION)[kind]
    damage(copy)
    before = contents(copy.parent)
    assert_refused(evaluate(monkeypatch, f"run='{copy}'"), copy, words, capsys)
    assert contents(copy.parent) == before


def test_a_run_does_not_choose_where_its_reader_writes_compiled_programs(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    cache = yaml.safe_load((copy / CONFIG).read_text())["training"]["compilation_cache"]
    replaced(CONFIG, f"compilation_cache: {cache}", f"compilation_cache: {copy / 'cache'}")(copy)
    before = contents(copy.parent)
    assert evaluate(monkeypatch, f"run='{copy}'", "evaluation.horizons=[9999]") == 2
    assert "horizons=[9999]" in capsys.readouterr().err
    assert contents(copy.parent) == before


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_another_process_trains_in_is_left_alone(
    copy: Path, fresh: bool, train: Train, capsys: Captured
) -> None:
    """With fresh=true the run of the other process would be moved away."""
    before = contents(copy.parent)
    with run_lock(RunDirectory(copy)):
        status = train(copy, fresh)
    assert_refused(status, copy, "in use by another training process", capsys)
    assert contents(copy.parent) == before


def flip(folder: Path) -> None:
    """One bit, in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_resumes_from_the_newest_valid_checkpoint_to_the_same_bits(
    small_run: Path, copy: Path, train: Train, capsys: Captured
) -> None:
    flip(copy / POLICY / "60")
    missing(SUMMARY)(copy)
    assert train(copy) == 0
    output = capsys.readouterr().out
    assert f"warning: {copy / POLICY / '60'} is damaged" in output
    assert str(copy / POLICY / "30") in output
    assert (copy / "checkpoints" / "policy.damaged" / "60" / "meta").is_dir()
    runs = (copy, small_run)
    policies = [json.loads((run / SUMMARY).read_text())["stages"]["policy"] for run in runs]
    assert policies[0]["state_sha256"] == policies[1]["state_sha256"]
    rows = [[row[:2] for row in read_metrics(run / "metrics.jsonl")] for run in runs]
    assert rows[0] == rows[1]


def test_loading_uses_the_newest_valid_checkpoint_and_changes_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(copy / POLICY / "60")
    before = contents(copy)
    loaded = worldmodel.load(copy)
    assert (loaded.stage, loaded.step) == ("policy", 30)
    assert f"{copy / POLICY / '60'} is damaged" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"60 is damaged \(state/.*accepted: last"):
        worldmodel.load(copy, "60")
    assert contents(copy) == before


def test_the_best_checkpoint_is_chosen_by_the_metric_of_its_stage(copy: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"checkpoint=best: .* no training.policy.best_metric"
    ):
        worldmodel.load(copy, "best")
    values = {
        int(p.name): json.loads((p / "meta/metadata").read_text())["metrics"]["loss/actor"]
        for p in (copy / POLICY).iterdir()
    }
    for mode, choose in (("min", min), ("max", max)):
        run = Path(shutil.copytree(copy, copy.parent / mode))
        config = yaml.safe_load((run / CONFIG).read_text())
        config["training"]["policy"] |= {"best_metric": "loss/actor", "best_mode": mode}
        (run / CONFIG).write_text(yaml.safe_dump(config))
        assert worldmodel.load(run, "best").step == choose(values, key=values.get)
