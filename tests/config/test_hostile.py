"""Odd command lines are refused with a message or accepted, and never end in a traceback."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from composing import ROOT, build

from worldmodel.aggregate.command import run as aggregate
from worldmodel.cli.eval import run_evaluation
from worldmodel.cli.sweep import plan_sweep
from worldmodel.cli.train import run_training
from worldmodel.config.io import save_config
from worldmodel.data.commands import run as data
from worldmodel.play.command import parse as play
from worldmodel.status.report import main as status
from worldmodel.system.exit_status import run_cli

ODD_VALUES = [
    "null", "NULL", "[1]", "[]", "{}", "{a: 1}", "{1: 2}", "{a: {b: {c: 1}}}", "", "''", "'a", "{a",
    "[1", "nan", "-inf", "1e400", "9" * 30, "9" * 400, "9" * 5000, "-1", "1_000", "0x10", "${seed}",
    "${", "}${", "${nope}", "${oc.env:HOME}", "${oc.env:NOPE}", "${oc.decode:x}", "???", "$", "\\",
    "${hydra:runtime.cwd}", "a b", "a,b", "range(3)", "range(a)", "choice(1,2)", "interval(0,1)",
    "glob(*z)", "sort(3,1)", "json_str({})", "\u00e9", "\u65e5\u672c", "\u202e", "\x1b[31mred",
    "\x00", "a\nb", "\udce9", "x" * 5000, "[" * 3000, "[" * 200 + "]" * 200, "[[1]]", "[null]",
    "{a: " * 150 + "1" + "}" * 150, "/nope/", "..", "~nobody/x", "!!python/object:os.system", "&a",
    "*a", "{_target_: os.system}", "a=b", "[nan]", "1,", "{format: [1]}", "{format: {a: 1}}",
    "a:b:c", ":", "\uff11",
]  # fmt: skip
KEYS = [
    "seed", "name", "data", "model", "policy", "training", "experiment", "runs_dir", "x", "a.b",
    "data.path", "data.holdout", "data.normalize", "data.environment", "training.policy.steps",
    "hydra.x", "evaluation.data", "evaluation.data.format", "evaluation.horizons",
    "training.world_model",
]  # fmt: skip
ODD_WORDS = [
    "+seed=1", "++seed=1", "~seed", "~data", "+a.b=1", "+experiment=smoke", "data@x=npz", "@=",
    "==", "=1", "a", "--", "-x", "--seed=1", "seed", '"seed"=1', "SEED=1", ".=1", "seed.=1",
    "seed..x=1", "name.x=1", "data.path.x=1", "evaluation.data..=1", "evaluation.data.x.y=1",
    "schema=x", "schema/data=npz", "/data=npz", "data=../model/rssm", "policy=shared/offline",
    "hydra/nope=x", "experiment=../config", "experiment=[smoke,seeds]", "name=${name}",
    "training={world_model: null}", "name=${training}", "evaluation.horizons=${training}",
    "a[0]=1", "null=1", "1=1", "evaluation.horizons[0]=1", "\u65e5=1", "${seed}=1", "seed: 1",
    "{seed: 1}", "data=null,npz", "experiment=null,smoke", "policy=bc,nope", "_target_=os.system",
    "k" * 5000 + "=1", "evaluation.data.path={}", "x={}", "seed=[1],[2]", "seed=choice()",
]  # fmt: skip


@pytest.fixture
def outcome(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[str, Sequence[str]], int]:
    """Calls a command with words, checks its message and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    save_config(build("experiment=smoke"), "run/config.yaml")
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": lambda words: run_training(lambda _: 0, str(ROOT / "train.py"), "Trains."),
        "sweep": lambda words: run_cli(lambda: plan_sweep(ROOT / "configs", words) and 0),
        "eval": lambda words: run_evaluation(lambda _: 0, "Evaluates."),
        "play": lambda words: run_cli(lambda: play(words) and 0),
        "aggregate": lambda words: run_cli(lambda: aggregate(words)),
        "data": lambda words: run_cli(lambda: data(words)),
        "status": lambda words: run_cli(lambda: status(words)),
    }

    def call(command: str, words: Sequence[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["program", *words])
        status = commands[command](list(words))
        message = capsys.readouterr().err
        assert status == 2 and message.startswith("error: ") or status == 0, words
        assert all(c.isprintable() or c == "\n" for c in message), words
        assert len(message) < 5000, words
        return status

    return call


def pairs(share: int) -> Iterator[str]:
    """Every `share`-th of all pairs of a key and an odd value."""
    odd = (f"{key}={value}" for value, key in itertools.product(ODD_VALUES, KEYS))
    return itertools.islice(odd, 0, None, share)


def test_odd_options_are_accepted_or_refused(outcome: Callable[..., int]) -> None:
    statuses = [outcome("train", [word]) for word in (*pairs(7), *ODD_WORDS)]
    assert 150 < statuses.count(2) < len(statuses)


def test_odd_words_are_accepted_or_refused_by_every_command(outcome: Callable[..., int]) -> None:
    values = [word.partition("=")[2] for word in pairs(41)]
    for word in (*ODD_WORDS[::5], *ODD_VALUES[::4]):
        outcome("sweep", [word if "=" in word else f"name={word}"])
        outcome("eval", ["run=run", word])
        outcome("play", ["run=run", word])
        outcome("aggregate", ["runs=run", word])
        outcome("status", [word])
        outcome("data", ["inspect", word])
        outcome("data", ["inspect", "nowhere.npz", word])
    for value in values:
        outcome("eval", [f"run={value}"])
        outcome("eval", ["run=run", f"checkpoint={value}"])
        outcome("eval", ["run=run", f"data.path={value}"])


def test_odd_options_of_hydra_are_refused(outcome: Callable[..., int]) -> None:
    for word in (
        "hydra.sweeper=null", "hydra.sweeper.params={seed: '1,2'}", "hydra/launcher=null",
        "hydra.sweep.dir=null", "hydra.searchpath=x", "hydra/sweeper=x",
    ):  # fmt: skip
        assert outcome("sweep", [word]) == 2


@pytest.mark.slow
def test_what_hydra_refuses_when_the_sweep_runs_is_reported(tmp_path: Path) -> None:
    for word in ("hydra.sweep.dir=/proc/x", "hydra.sweep.dir=a,b", "hydra.launcher=null"):
        command = [sys.executable, str(ROOT / "train.py"), "-m", word]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "error: the sweep cannot be run" in done.stderr, word
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_all_odd_options_are_accepted_or_refused(outcome: Callable[..., int]) -> None:
    for word in pairs(1):
        outcome("train", [word])
        outcome("sweep", [word])
        outcome("eval", ["run=run", word])
        outcome("play", ["run=run", word])
        outcome("aggregate", ["runs=run", word])
