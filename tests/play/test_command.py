"""The command line of `python -m worldmodel.play` and its output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worldmodel.config.option import iter_options
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import ConfigError, UserError
from worldmodel.loading import LoadedRun
from worldmodel.play.action_sources import action_format, parse_action
from worldmodel.play.command import parse, run
from worldmodel.play.options import PlayOptions
from worldmodel.play.video import CAPTION, GAP

ROOT = Path(__file__).parents[2]
Loaded = Callable[[LoadedRun], None]


@pytest.fixture
def words(smoke: LoadedRun) -> list[str]:
    return [f"run={smoke.directory.path}", "context=3"]


def steps_of(printed: str) -> list[list[float]]:
    """The numbers of every line that begins with a step; a dash is NaN."""
    lines = [line.split() for line in printed.splitlines() if re.match(r" +\d+ ", line)]
    return [[np.nan if cell == "-" else float(cell) for cell in line] for line in lines]


# ------------------------------------------------------------------------------------- command line


def test_help_names_every_option_and_imports_no_jax() -> None:
    program = (
        "import sys; from worldmodel.play.command import run; status = run(['--help']); "
        "sys.exit('jax' in sys.modules or status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option, _ in iter_options(PlayOptions()):
        assert f"  {option.key} = " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "run needs a value"),
        (["run=nowhere"], "run=nowhere: not a run directory"),
        (["run=x", "acton=zeros"], "did you mean 'actions'"),
        (["run=x", "actions=polcy"], "did you mean 'policy'|accepts list"),
        (["run=x", "actions=[zero,random]"], "takes actions from one source"),
        (["run=x", "actions=logged"], "takes actions from one source"),
        (["run=x", "start_step=3"], "start_step=3: needs a logged episode"),
        (["run=x", "figure=a.png"], "needs a logged episode"),
        (["run=x", "episode=1", "actions=[keyboard]"], "keyboard needs the real environment"),
        (["run=x", "episode=1", "actions=[zero,zero]"], "accepted: each once"),
        (["run=x", "episode=1", "video=a.gif"], "video=a.gif: needs the real environment"),
        (
            ["run=x", "episode=1", "environment=E-v1"],
            "environment=E-v1: needs the real environment",
        ),
        (["run=x", "video=a.mp4"], "ends in .gif"),
        (["run=x", "video=a.gif", "steps=3000"], "accepts up to 500 with a video"),
        (["run=x", "steps=0"], "steps=0: accepts integer, 1"),
    ],
)
def test_invalid_options_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(given)


def test_actions_are_one_word_or_a_list(words: list[str]) -> None:
    assert parse([*words, "actions=zero"]).actions == ["zero"]
    assert parse([*words, "episode=1", "actions=[zero,random]"]).actions == ["zero", "random"]


def test_a_missing_environment_or_policy_is_reported(
    smoke: LoadedRun, words: list[str], loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(smoke.config, data=replace(smoke.config.data, environment=None))
    loaded(replace(smoke, config=config))
    with pytest.raises(ConfigError, match="names no real environment; accepted: environment=ID"):
        run(words)
    with pytest.raises(UserError, match="cannot be created .did you mean 'Pendulum-v1'"):
        run([*words, "environment=Pendulm-v1"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", None)
        with pytest.raises(ConfigError, match="keyboard: there is no standard input"):
            run([*words, "actions=keyboard", "environment=Pendulum-v1"])
    loaded(replace(smoke, policy=None))
    with pytest.raises(ConfigError, match="actions=policy: .* has no policy"):
        run([*words, "actions=policy"])


# -------------------------------------------------------------------------- live comparison


def test_every_step_has_a_line_and_the_summary_two_returns(
    oracle: LoadedRun, words: list[str], loaded: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(oracle)
    assert run([*words, "steps=6"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    rows = steps_of(printed)
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [np.isnan(row[5]) for row in rows] == [True, True, False, False, False, False]
    np.testing.assert_allclose([r[2:5] for r in rows[2:]], [r[5:8] for r in rows[2:]], atol=0.011)
    for kind, column in (("real", 8), ("imagined", 9)):
        (total,) = re.findall(rf"^{kind} return +(\S+) over", printed, re.M)
        assert float(total) == pytest.approx(sum(row[column] for row in rows[2:]), rel=1e-2)
    assert "median error" in printed and "training standard deviations" in printed


def test_actions_are_read_from_a_pipe(
    oracle: LoadedRun,
    words: list[str],
    loaded: Loaded,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty line repeats the last action, invalid input is reported, numbers are clipped, and q
    quits.
    """
    loaded(oracle)
    reader, writer = os.pipe()
    os.write(writer, b"1.5\n\n1 2\nup\n\xff\x1b[2J\n-9\n\nq\n0.5\n")
    os.close(writer)
    with os.fdopen(reader) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        assert run([*words, "actions=keyboard", "steps=50"]) == 0
    printed = capsys.readouterr()
    assert [row[1] for row in steps_of(printed.out)] == [1.5, 1.5, -2.0, -2.0]
    assert printed.err.count("accepted: 1 number in [-2, 2]") == 3
    assert "\\x1b[2J: accepted" in printed.err and "\x1b" not in printed.err
    assert "dreamed steps        2" in printed.out


def test_the_end_of_a_pipe_quits_even_before_the_dream_begins(
    oracle: LoadedRun,
    words: list[str],
    loaded: Loaded,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    loaded(oracle)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert run([*words, "actions=keyboard", f"video={tmp_path / 'v.gif'}"]) == 0
    assert "No step was dreamed" in capsys.readouterr().out
    assert not (tmp_path / "v.gif").exists()


def test_typed_lines_are_parsed() -> None:
    two = ActionSpec(False, 2, (-1.0, 0.0), (1.0, 3.0))
    last = np.zeros(2)
    np.testing.assert_array_equal(parse_action("0.5, 9", two, last), [0.5, 3.0])
    assert parse_action("", two, last) is last
    for line in ("1", "1 2 3", "a b", "nan 1", "inf 1"):
        assert parse_action(line, two, last) is None
    three = ActionSpec(True, 3)
    assert parse_action("2", three, np.int32(0)) == 2
    for line in ("3", "-1", "1.5", "0 1"):
        assert parse_action(line, three, np.int32(0)) is None
    assert action_format(two) == "2 numbers" and action_format(three) == "a class from 0 to 2"


# ------------------------------------------------------------------------------------------- video


def frames_of(path: Path) -> np.ndarray:
    with Image.open(path) as gif:
        frames = []
        for i in range(gif.n_frames):
            gif.seek(i)
            frames.append(np.asarray(gif.convert("RGB"), np.int32))
    return np.stack(frames)


def test_a_video_of_the_true_dynamics_has_equal_halves(
    oracle: LoadedRun, smoke: LoadedRun, words: list[str], loaded: Loaded, tmp_path: Path
) -> None:
    pytest.importorskip("pygame", reason="pygame is not installed: gymnasium[classic-control]")
    file = tmp_path / "new" / "v.gif"

    def difference(run_: LoadedRun) -> np.ndarray:
        """(frames,) share of pixels that differ between the halves."""
        loaded(run_)
        assert run([*words, "steps=7", "actions=random", f"video={file}"]) == 0
        frames = frames_of(file)[:, CAPTION:]
        assert len(frames) == 7
        half = (frames.shape[2] - GAP) // 2
        left, right = frames[:, :, :half], frames[:, :, half + GAP :]
        assert np.ptp(left) > 100  # the frames are not empty
        return (np.abs(left - right).max(-1) > 40).mean((1, 2))

    assert difference(oracle).max() < 1e-3
    assert difference(smoke)[3:].max() > 1e-2
    assert file.stat().st_size < 2**20


def test_curves_are_drawn_without_a_renderer(
    oracle: LoadedRun,
    words: list[str],
    loaded: Loaded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded(oracle)
    monkeypatch.setitem(sys.modules, "pygame", None)  # as if it were not installed
    file = tmp_path / "v.gif"
    assert run([*words, "steps=5", "actions=zero", f"video={file}"]) == 0
    assert "pygame is not installed" in capsys.readouterr().err
    frames = frames_of(file)
    assert len(frames) == 5 and np.abs(frames[-1] - frames[0]).max() > 100


# ----------------------------------------------------------------------------- counterfactuals


def test_counterfactuals_are_printed_with_the_truth(
    oracle: LoadedRun, words: list[str], loaded: Loaded, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    loaded(oracle)
    picture = tmp_path / "new" / "p.png"
    with pytest.raises(UserError) as raised:
        run([*words, "episode=999"])
    number = re.search(r"held out: (\d+)", str(raised.value))[1]
    assert run([*words, f"episode={number}", "start_step=5", "steps=7", f"figure={picture}"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert [row[0] for row in re.findall(r"^ +(\d+)  (\w+)", printed, re.M)] == ["1", "2", "5", "7"]
    rows = re.findall(r"^.{8}( *\w+)\s+(.*)$", printed, re.M)
    by_name = {}
    for name, cells in rows:
        by_name.setdefault(name.strip(), []).append(cells.split())
    kinds = {"logged", "truth", "random", "zero"}
    assert kinds <= by_name.keys() and all(len(by_name[kind]) == 4 for kind in kinds)
    for imagined, truth in zip(by_name["logged"], by_name["truth"], strict=True):
        assert [imagined[4], truth[3], truth[5]] == [
            "-",
            "-",
            "-",
        ]  # imagined and logged rewards never mix
        imagined, true = ([float(x) for x in row] for row in ([*imagined[:3], imagined[3]],
                                                          [*truth[:3], truth[4]]))  # fmt: skip
        np.testing.assert_allclose(imagined, true, rtol=0.02, atol=0.01)
    with Image.open(picture) as image:
        assert np.ptp(np.asarray(image.convert("L"))) > 100
