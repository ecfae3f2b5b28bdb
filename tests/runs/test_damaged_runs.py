"""A damaged run directory is refused in a few lines, whichever command meets it, and not one byte
of it changes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldmodel
from worldmodel.cli.train import run_training
from worldmodel.errors import CheckpointError
from worldmodel.cli.eval import run_evaluation
from worldmodel.runs.directory import RunDirectory, run_lock, read_metrics
from worldmodel.runs.integrity import VERSION, with_checksum

ROOT = Path(__file__).parent.parent
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
    """Whole JSON that says something else."""

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

# What is damaged -> how, and what the error names beside the path
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
    "unknown option": (replaced(CONFIG, "keep:", "keeep:"), "keeep"),
    "option of a wrong type": (replaced(CONFIG, "max_to_keep: 2", "max_to_keep: two"), "training.max_to_keep"),
    "option out of range": (replaced(CONFIG, "max_to_keep: 2", "max_to_keep: 0"), "training.max_to_keep"),
    "option that is null": (replaced(CONFIG, "max_to_keep: 2", "max_to_keep: null"), "training.max_to_keep"),
    "group a number": (replaced(CONFIG, "logging:", "logging: 3\nloging:"), "loging"),
    "unknown schema": (replaced(CONFIG, "policy: actor_critic", "policy: actor"), "policy=actor"),
    "schema of another family": (replaced(CONFIG, "model: rssm", "model: gru"), "model."),
    "config a folder": (folder(CONFIG), "smoke-0"),
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
        every(f"{POLICY}/*/meta/metadata", lambda p: os.truncate(p, 9)), "no checkpoint is whole"
    ),
    "every checkpoint empty": (
        every(f"{POLICY}/*", lambda p: (shutil.rmtree(p), p.mkdir())), "no checkpoint is whole"
    ),
    "checkpoints without arrays": (
        every(f"{POLICY}/*/state", shutil.rmtree), "no checkpoint is whole"
    ),
    "a newer checkpoint format": (
        every(f"{POLICY}/*/meta/metadata", newer), "newer version",
    ),
    "another stage's checkpoints": (
        lambda run: (shutil.rmtree(run / POLICY), shutil.copytree(run / MODEL, run / POLICY)),
        "of another model",
    ),
}  # fmt: skip

TRAINING: dict[str, tuple[Damage, str]] = {
    "config missing": (missing(CONFIG), "holds no run"),
    "another seed": (replaced(CONFIG, "seed: 0", "seed: 1"), "seed: 1 -> 0"),
    "another model": (replaced(CONFIG, "deter: null", "deter: 64"), "model.deter"),
    "spec of other logs": (edited(SPEC, lambda s: s | {"fingerprint": "0"}), "not those"),
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
def copy(smoke_run: Path, tmp_path: Path) -> Path:
    """The folder of a real, finished run, to be damaged."""
    copy = Path(shutil.copytree(smoke_run, tmp_path / smoke_run.name))
    replaced(CONFIG, str(smoke_run.parent), str(tmp_path))(copy)
    return copy


def contents(folder: Path) -> dict[str, bytes | None]:
    """All but the sign of life, which says what the last command came to."""
    paths = (p for p in folder.rglob("*") if p.name != "heartbeat.json")
    return {str(p): p.read_bytes() if p.is_file() else None for p in paths}


def train(run: Path, launch: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> int:
    from worldmodel.training.run import train as job

    monkeypatch.setattr(sys, "argv", launch(f"runs_dir={run.parent}")[1:])
    return run_training(job, str(ROOT / "train.py"), "")


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    from worldmodel.loading import evaluate_run

    monkeypatch.setattr(sys, "argv", ["eval.py", *words])
    return run_evaluation(
        lambda asked: evaluate_run(*asked.runs, asked.checkpoint, asked.evaluation), ""
    )


Captured = pytest.CaptureFixture[str]


def assert_refused(status: int, run: Path, words: str, capsys: Captured) -> None:
    told = capsys.readouterr().err
    assert status == 2 and told.startswith("error: "), told
    assert words in told and str(run) in told, told


@pytest.mark.parametrize("kind", [*BOTH, *TRAINING])
def test_training_refuses_a_damaged_run(
    copy: Path,
    kind: str,
    launch: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    damage, words = (BOTH | TRAINING)[kind]
    damage(copy)
    before = contents(copy.parent)
    assert_refused(train(copy, launch, monkeypatch), copy, words, capsys)
    assert contents(copy.parent) == before


@pytest.mark.parametrize("kind", [*BOTH, *EVALUATION])
def test_evaluation_refuses_a_damaged_run(
    copy: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    damage, words = (BOTH | EVALUATION)[kind]
    damage(copy)
    before = contents(copy.parent)
    assert_refused(evaluate(monkeypatch, f"run={copy}"), copy, words, capsys)
    assert contents(copy.parent) == before


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_another_process_trains_in_is_left_alone(
    copy: Path,
    fresh: bool,
    launch: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    """With fresh=true the run of the other would be moved away beneath it."""
    before = contents(copy.parent)
    words = ["fresh=true"] if fresh else []
    with run_lock(RunDirectory(copy)):
        status = train(copy, lambda *given: launch(*given, *words), monkeypatch)
    assert_refused(status, copy, "is being trained in by another process", capsys)
    assert contents(copy.parent) == before


def flip(folder: Path) -> None:
    """One bit, in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_run_goes_on_from_the_newest_whole_checkpoint_to_the_same_bits(
    smoke_run: Path,
    copy: Path,
    launch: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flip(copy / POLICY / "60")
    missing(SUMMARY)(copy)
    assert train(copy, launch, monkeypatch) == 0
    told = capsys.readouterr().out
    assert (
        f"warning: {copy / POLICY / '60'} is damaged" in told and str(copy / POLICY / "30") in told
    )
    assert (copy / "checkpoints" / "policy.damaged" / "60" / "meta").is_dir()
    ends = [
        json.loads((run / SUMMARY).read_text())["stages"]["policy"] for run in (copy, smoke_run)
    ]
    assert ends[0]["state_sha256"] == ends[1]["state_sha256"]
    rows = [[row[:2] for row in read_metrics(run / "metrics.jsonl")] for run in (copy, smoke_run)]
    assert rows[0] == rows[1]


def test_a_judge_takes_the_newest_whole_checkpoint_and_touches_nothing(
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


def test_the_best_checkpoint_is_judged_by_the_metric_of_its_stage(copy: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"checkpoint=best: .* no training.policy.best_metric"
    ):
        worldmodel.load(copy, "best")
    values = {
        int(p.name): json.loads((p / "meta/metadata").read_text())["metrics"]["loss/critic"]
        for p in (copy / POLICY).iterdir()
    }
    for mode, choose in (("min", min), ("max", max)):
        run = Path(shutil.copytree(copy, copy.parent / mode))
        config = yaml.safe_load((run / CONFIG).read_text())
        config["training"]["policy"] |= {"best_metric": "loss/critic", "best_mode": mode}
        (run / CONFIG).write_text(yaml.safe_dump(config))
        assert worldmodel.load(run, "best").step == choose(values, key=values.get)
