"""Every Python block of README and docs is executed, on a real run where it loads one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pages import PAGES, README, ROOT, blocks, words_after

from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.data import load
from worldmodel.data.readers.tfds import TFDSData

PYTHON = [(page, code) for page, text in PAGES.items() for code in blocks(text, "python")]


def execute(block: str) -> dict:
    """Runs a block and returns its variables."""
    names: dict = {}
    exec(block, names)
    return names


@pytest.mark.parametrize("block", [pytest.param(c, id=p) for p, c in PYTHON if "write_rlds(" in c])
def test_data_written_from_python_can_be_trained_on(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = execute(block)["dataset"]
    (command, *_) = [words for words in words_after("python train.py") if "data=tfds" in words]
    config = build_config(ROOT / "configs", parse_overrides(command))
    assert isinstance(config.data, TFDSData)
    dataset = load(config.data)
    assert (dataset.num_episodes, dataset.num_transitions) == (20, 2000)
    assert dataset.action_spec == written.action_spec
    np.testing.assert_array_equal(
        dataset.observations["position"], written.observations["position"]
    )
    np.testing.assert_array_equal(dataset.rewards, written.rewards)


@pytest.mark.parametrize(
    "block", [pytest.param(c, id=p) for p, c in PYTHON if "worldmodel.load(" in c]
)
def test_blocks_that_load_a_run_work(
    block: str, smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = re.findall(r'worldmodel\.load\("([^"]+)"', block)
    Path(path).parent.mkdir()
    Path(path).symlink_to(smoke_run)
    names = execute(block)
    if "predicted" in names:
        assert names["predicted"]["observation"].shape == (1, 8, 15, 3)
        assert names["rollout"].rewards.shape == (4, 15)
        assert np.isfinite(names["rollout"].rewards).all()
    if "dreams" in names:
        assert names["observations"].shape == (64, 3) and np.isfinite(names["rewards"]).all()


def test_every_python_block_is_executed_above():
    assert "write_rlds(" in "".join(blocks(README, "python"))
    assert [p for p, c in PYTHON if "write_rlds(" not in c and "worldmodel.load(" not in c] == []
