"""Runs that this user has trained on this machine are told from those that came from elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from composing import build

from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import DataError
from worldmodel.loading import LoadedRun
from worldmodel.runs.directory import RunDirectory, open_run
from worldmodel.runs.origin import is_own

SPEC = DataSpec({"x": ObservationSpec((1,), "float32")}, ActionSpec(True, 2))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's key is."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "worldmodel"


def opened(folder: Path, path: str = "logs.npz") -> RunDirectory:
    return open_run(build("data=npz", f"data.path={path}", f"runs_dir={folder}", "name=mine"))


def test_a_run_is_of_the_user_who_opened_it_wherever_it_is_moved(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(tmp_path)
    assert is_own(run.path, run.config())
    assert oct((state / "key").stat().st_mode)[-3:] == "600" and len(list(state.iterdir())) == 1
    moved = shutil.move(run.path, tmp_path / "moved")
    assert is_own(Path(moved), RunDirectory(Path(moved)).config())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    assert not is_own(Path(moved), RunDirectory(Path(moved)).config())
    opened(tmp_path / "of another user")
    assert not is_own(Path(moved), RunDirectory(Path(moved)).config())


def test_other_data_need_another_mark(tmp_path: Path, state: Path) -> None:
    run = opened(tmp_path)
    for change in ({"path": "/etc/passwd"}, {"cache_dir": "/"}, {"environment": "other:X-v0"}):
        config = run.config()
        for key, value in change.items():
            setattr(config.data, key, value)
        assert not is_own(run.path, config)
    config = run.config()
    config.evaluation.data = {"path": "/etc/passwd"}
    assert not is_own(run.path, config)
    config = run.config()
    config.evaluation.episodes = 3  # names nothing that is read
    assert is_own(run.path, config)


def test_what_is_no_mark_is_nobodys(tmp_path: Path, state: Path) -> None:
    run = opened(tmp_path)
    config, mark = run.config(), run.path / "origin"
    for content in (b"", b"0" * 64, b"\xff" * 200, mark.read_bytes()[:-2]):
        mark.write_bytes(content)
        assert not is_own(run.path, config)
    mark.unlink()
    assert not is_own(run.path, config)
    os.mkfifo(mark)
    assert not is_own(run.path, config)


def test_without_a_place_for_the_key_runs_are_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = opened(tmp_path)
    assert not (run.path / "origin").exists() and not is_own(run.path, run.config())


def test_data_that_a_run_from_elsewhere_names_are_not_read_unasked(tmp_path: Path) -> None:
    config = build("data=npz", f"data.path={tmp_path / 'absent.npz'}")
    made = LoadedRun(
        RunDirectory(tmp_path), config, SPEC, "policy", 1, None, None, None, trusted=False
    )
    for read in (made.dataset, made.evaluate, lambda: made.evaluate(data={"holdout": 0.5})):
        with pytest.raises(DataError, match="did not train it .* accepted: .*allow_code=true"):
            read()
    with pytest.raises(DataError, match=r"named\.npz"):
        made.evaluate(data={"path": str(tmp_path / "named.npz")})
    config.evaluation.data = {"path": str(tmp_path / "named.npz")}
    with pytest.raises(DataError, match="did not train it"):
        made.dataset()
