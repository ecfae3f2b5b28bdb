"""`python -m worldmodel.data`: its output, and its error messages."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.composing import build
from worldmodel.config.arguments import quote_value
from worldmodel.data import load
from worldmodel.data.commands import run
from worldmodel.data.readers.files import existing_files
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.sources import parse_source
from worldmodel.errors import UserError

LENGTHS = np.array([30, 12, 80])


def archive(path: Path) -> str:
    """Three episodes of a vector with a constant column; the first one is terminal."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(int((LENGTHS + 1).sum()), 3))
    observations[:, 2] = 7
    np.savez(
        path,
        observations=observations,
        actions=rng.uniform(-1, 1, (LENGTHS.sum(), 2)),
        rewards=rng.normal(size=LENGTHS.sum()),
        lengths=LENGTHS,
        terminated=np.array([True, False, False]),
    )
    return str(path)


def tables(folder: Path) -> str:
    """Six flights of a robot, one file each."""
    for flight in range(6):
        rows = [f"{t / 10},{t},{-t},{t % 3}" for t in range(40)]
        (folder / f"flight{flight}.csv").write_text("\n".join(["t,x,y,u", *rows]))
    return str(folder / "*.csv")


def test_inspect_prints_a_card_and_writes_plots_without_importing_jax(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["inspect", archive(tmp_path / "logs.npz"), f"output_dir={out}", "window=20"]
    command = [sys.executable, "-X", "importtime", "-m", "worldmodel.data", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "numpy" in imported and "jax" not in imported
    output = done.stdout
    for words in ("3 (1 terminal, 2 truncated)", "transitions           122", "12 to 80"):
        assert words in output
    assert "windows of 20 steps" in output and "Warnings" in output
    assert "columns 2" in output or "column 2" in output  # the constant one
    card = json.loads((out / "card.json").read_text())
    usable = next(window for window in card["windows"] if window["length"] == 20)
    assert usable["count"] == (31 - 20 + 1) + (81 - 20 + 1)
    assert usable["step_fraction"] == pytest.approx((31 + 81) / (31 + 13 + 81))
    for picture in ("episodes.png", "over-time.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("pattern", ["*.csv", "robot/**", "robot/*/flight[0-4].csv", "**/*.csv"])
def test_any_pattern_that_training_accepts(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "robot" / "chunk-000"
    folder.mkdir(parents=True)
    tables(tmp_path if pattern == "*.csv" else folder)
    source = parse_source(str(tmp_path / pattern))
    assert source.format == "table"
    name = tmp_path.name if pattern in ("*.csv", "**/*.csv") else "robot"
    assert source.name == name
    files = existing_files(TableData(path=source.value))
    assert len(files) == (5 if "0-4" in pattern else 6)


def test_inspect_takes_the_options_of_the_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["observations=[x,y]", "data.actions=[u]", "time=t", "max_episode_steps=13"]
    assert run(["inspect", tables(tmp_path), *words, f"output_dir={tmp_path / 'out'}"]) == 0
    output = capsys.readouterr().out
    assert "18 (0 terminal, 18 truncated)" in output  # 6 records of 39 transitions, cut in three
    assert " x " in output and " u " in output
    command = set(shlex.split(output.splitlines()[-1]))
    assert command >= {f"data.{word.removeprefix('data.')}" for word in words} | {"policy=none"}


def test_names_are_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\x1b[2J.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("\x1b[31mred", "[bold]x", "$a_b$"):
            file[f"observations/{name}"] = np.full((40, 1), 7.0)
        file["actions"], file["terminals"] = np.ones((40, 1)), np.arange(40) == 39
    assert run(["inspect", str(path), f"output_dir={quote_value(str(tmp_path / chr(27)))}"]) == 0
    run(["convert", str(path), str(tmp_path / "sets" / "\x1b[2J")])
    assert run(["list", str(tmp_path / "sets")]) == 0
    shown = capsys.readouterr()
    command = next(line for line in shown.out.splitlines() if line.startswith("python train.py"))
    assert "\x1b" not in shown.out.replace(command, "") + shown.err  # a command stays as it is
    for name in (
        r"observation \x1b[31mred",
        "observation [bold]x",
        "$a_b$: constant",
        r"\x1b[2J: 1 ep",
    ):
        assert name in shown.out


def test_convert_writes_the_same_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = archive(tmp_path / "logs.npz"), tmp_path / "native"
    assert run(["convert", path, str(target), "environment=Hopper-v5"]) == 0
    output = capsys.readouterr().out
    assert f"data=tfds data.path={target} data.environment=Hopper-v5" in output
    assert "3 episodes, 122 transitions" in output
    native = load(TFDSData(path=str(target)))
    assert native.lengths.tolist() == (LENGTHS + 1).tolist()
    assert native.terminated.tolist() == [True, False, False]
    assert json.loads((target / "card.json").read_text())["transitions"] == 122
    with pytest.raises(UserError, match="is not empty"):
        run(["convert", path, str(target)])


@pytest.mark.parametrize(
    "name",
    ["a b", "[v2]", "it's", "x: {z}", "a\\", "null", "12", "${oc.env:HOME}", "$HOME", "*?", "="],
)
def test_the_printed_command_trains_on_the_written_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["convert", archive(tmp_path / "logs.npz"), name]) == 0
    python, train, *words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (python, train) == ("python", "train.py")
    assert load(build(*words).data).num_transitions == 122


def test_list_shows_formats_and_datasets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["convert", archive(tmp_path / "logs.npz"), str(tmp_path / "sets" / "native")])
    capsys.readouterr()
    assert run(["list", str(tmp_path / "sets")]) == 0
    output = capsys.readouterr().out
    for words in ("hdf5", "data.episode = null", "ornstein_uhlenbeck", "3 episodes, 122 transi"):
        assert words in output


def test_convert_keeps_the_environment_of_a_native_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    run(["convert", archive(tmp_path / "logs.npz"), first, "environment=Hopper-v5"])
    run(["convert", first, second, "normalize=[none]"])
    output = capsys.readouterr().out.splitlines()[-1]
    assert "data.environment=Hopper-v5 'data.normalize=[none]'" in output
    run(["list", str(tmp_path)])
    assert f"{second}: 3 episodes, 122 transitions of Hopper-v5" in capsys.readouterr().out


def test_list_shows_the_other_datasets_if_one_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["convert", archive(tmp_path / "logs.npz"), str(tmp_path / "good")])
    for name in ("broken", ".good.incomplete-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text("{")
    run(["list", str(tmp_path)])
    output = capsys.readouterr().out
    assert "good: 3 episodes" in output and "broken: no card.json" in output
    assert "incomplete" not in output


def test_help_for_a_source_lists_the_options_of_its_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", tables(tmp_path), "--help"]) == 0
    output = capsys.readouterr().out
    assert "window = null" in output and "data.terminal = null" in output
    assert "data.split" not in output and "data.path" not in output
    assert run(["--help"]) == 0
    assert "convert SOURCE DEST" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inspct", "x"], "(did you mean 'inspect'?)"),
        (["inspect"], "SOURCE is missing"),
        (["inspect", "window=3"], "SOURCE is missing"),
        (["convert", "LOGS"], "usage: python -m worldmodel.data convert SOURCE DEST"),
        (["inspect", "LOGS", "output_dir=LOGS"], "cannot be created"),
        (["convert", "LOGS", "LOGS/below"], "cannot be created"),
        (["inspect", "LOGS", "windw=3"], "did you mean 'window'?"),
        (["inspect", "LOGS", "window=1"], "window=1: accepts integer, 2 or more"),
        (
            ["inspect", "LOGS", "on_invalid_episode=skp"],
            "one of error, skip (did you mean 'skip'?)",
        ),
        (["inspect", "LOGS", "path=elsewhere"], "already set by SOURCE"),
        (["inspect", "LOGs"], "does not exist (did you mean"),
        (["inspect", "CartPole-v1"], "did you mean 'gymnasium:CartPole-v1'"),
        (["inspect", "FOLDER"], "holds no dataset"),
        (["inspect", "gymnasium:"], "expected gymnasium:ENVIRONMENT"),
        (["list", "FOLDER", "more"], "more: unexpected argument"),
    ],
)
def test_mistakes_are_reported(tmp_path: Path, words: list[str], expected: str) -> None:
    logs = archive(tmp_path / "logs.npz")
    (tmp_path / "empty").mkdir()
    places = {"LOGS": logs, "LOGs": logs.replace("logs.npz", "lgs.npz")}
    places["FOLDER"] = str(tmp_path / "empty")
    with pytest.raises(UserError) as caught:
        run([re.sub("|".join(places), lambda m: places[m[0]], word) for word in words])
    assert expected in str(caught.value)


def test_the_format_follows_from_the_source(tmp_path: Path) -> None:
    archive(tmp_path / "logs.npz")
    assert parse_source(str(tmp_path)).format == "npz"
    assert parse_source(tables(tmp_path)).format == "table"
    assert parse_source("minari:D4RL/pen/human-v2")[:2] == ("minari", "dataset")
    with pytest.raises(UserError, match="several formats: table .6. and npz .1."):
        parse_source(str(tmp_path))


def test_a_mistake_exits_with_status_2() -> None:
    command = [sys.executable, "-m", "worldmodel.data", "inspect", "none.npz"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
