"""A checkpoint is evaluated on other data than that of its run: all of it, and only if it fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import worldmodel
from worldmodel.cli.eval import parse_eval
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.errors import ConfigError, DataError
from worldmodel.loading import evaluate_run
from worldmodel.training.run import train

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"episodes": 1, "horizons": [1, 5], "num_samples": 2, "starts_per_episode": 1}
QUICK |= {f"policy_ranking.{key}": 0 for key in ("rollouts_per_policy", "num_start_states")}


@pytest.fixture
def copy(smoke_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(smoke_run, tmp_path / "copy")


def archive(path: Path, size: int = 3, episodes: int = 3) -> Path:
    """Episodes of 20 transitions that look like Pendulum's, without reward."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        observations=rng.normal(size=(21 * episodes, size)).astype(np.float32),
        actions=rng.uniform(-3, 3, (20 * episodes, 1)).astype(np.float32),
        rewards=rng.normal(size=20 * episodes).astype(np.float32),
        lengths=np.full(episodes, 20),
    )
    return path


def test_other_data_is_evaluated_in_whole(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = archive(tmp_path / "other.npz")
    words = [f"run={copy}", "data=npz", f"data.path={file}", "evaluation.free_run=true"]
    words += [f"evaluation.{key}={value}".replace(" ", "") for key, value in QUICK.items()]
    request = parse_eval(words)
    worldmodel.load(*request.runs).evaluate(**request.evaluation)
    results = json.loads((copy / "evaluation" / "results.json").read_text())
    assert results["data"] == f"{file}: all episodes"
    assert results["prediction"]["observation"]["5"]["error"]["n"] == 3
    assert results["config"]["evaluation"]["data"] == {"format": "npz", "path": str(file)}
    assert [r["rows"] for r in results["free_run"]["observation"]["records"]] == [11] * 3
    assert any("exceed the bounds" in note for note in results["notes"])
    assert "exceed the bounds" in capsys.readouterr().out
    assert f"{file}: all episodes" in (copy / "evaluation" / "report.html").read_text()


def test_data_of_another_shape_is_refused(copy: Path, tmp_path: Path) -> None:
    file = archive(tmp_path / "other.npz", size=4)
    with pytest.raises(DataError, match=r"'observation' is float32 of shape \(4,\).*shape \(3,\)"):
        worldmodel.load(copy).evaluate(data={"format": "npz", "path": str(file)})
    with pytest.raises(ConfigError, match=r"evaluation\.data\.pth: no such option"):
        worldmodel.load(copy).evaluate(data={"format": "npz", "pth": str(file)})


def test_results_name_the_held_out_episodes(smoke_run: Path) -> None:
    results = json.loads((smoke_run / "evaluation" / "results.json").read_text())
    assert results["data"].endswith(": held-out episodes")


def test_training_ends_with_an_evaluation_on_the_given_data(
    launch: Callable[..., list[str]], tmp_path: Path
) -> None:
    """And one that does not fit is refused before anything is trained."""
    words = [
        "data=npz", f"data.path={archive(tmp_path / 'train.npz')}", "data.environment=null",
        "policy=none", f"runs_dir={tmp_path / 'runs'}", "name=small", "model=mlp",
        "training.world_model={steps: 20, batch_size: 4, window: 8}", "model.units=16",
        "evaluation.num_samples=2", "evaluation.starts_per_episode=1", "evaluation.resamples=100",
        "evaluation.horizons=[1]", "evaluation.data.max_episode_steps=15",
    ]  # fmt: skip

    def trained(file: Path) -> int:
        overrides = [*launch(*words, experiment=False)[2:], f"evaluation.data.path={file}"]
        return train(build_config(ROOT / "configs", parse_overrides(overrides)), evaluate_run)

    with pytest.raises(DataError, match=r"shape \(2,\)"):
        trained(archive(tmp_path / "wrong.npz", size=2))
    assert not (tmp_path / "runs").exists()
    assert trained(archive(tmp_path / "test.npz", episodes=5)) == 0
    file = tmp_path / "runs" / "small" / "evaluation" / "results.json"
    results = json.loads(file.read_text())
    assert results["data"] == f"{tmp_path / 'test.npz'}: all episodes"
    assert results["prediction"]["observation"]["1"]["error"]["n"] > 5  # episodes are cut
