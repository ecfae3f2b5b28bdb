"""metrics.jsonl contains each row once, whenever a run was killed; W&B is optional."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldmodel.config import LoggingOptions
from worldmodel.training.metrics import IntervalMean, MetricsFile, wandb_mode, without_secrets


def test_a_restored_interval_has_the_same_means() -> None:
    values = {"loss": np.arange(10, dtype=np.float32)}
    whole = IntervalMean()
    whole.add(values)
    first = IntervalMean()
    first.add({"loss": values["loss"][:4]})
    second = IntervalMean(json.loads(json.dumps(first.to_json())))
    second.add({"loss": values["loss"][4:]})
    assert second.pop() == whole.pop() == {"loss": 4.5}
    assert second.count == 0


def test_rows_after_the_checkpoint_and_incomplete_rows_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for stage, step in (("world_model", 10), ("world_model", 20), ("policy", 10), ("policy", 20)):
        file.write({"stage": stage, "step": step})
    with path.open("a") as opened:
        opened.write('{"stage": "policy", "st')  # a writer killed in the middle of a row
    file.rewind("policy", 10)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [
        ("world_model", 10), ("world_model", 20), ("policy", 10),
    ]  # fmt: skip


def test_wandb_is_online_only_with_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert wandb_mode(LoggingOptions()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode(LoggingOptions()) == "online"
    assert wandb_mode(LoggingOptions(wandb="disabled")) == "disabled"
    assert wandb_mode(LoggingOptions(wandb="offline")) == "offline"


def test_secrets_are_cut_from_what_wandb_sees() -> None:
    config = {
        "data": {"path": "https://me:password@host/logs?a=b", "paths": ["s3://key@bucket", "a@b"]},
        "plugin": {"api_key": "0123", "password": "0123", "tokens": ["0123"], "keys": ["x"]},
        "seed": 1,
    }
    assert without_secrets(config) == {
        "data": {"path": "https://***@host/logs?a=b", "paths": ["s3://***@bucket", "a@b"]},
        "plugin": {"api_key": "***", "password": "***", "tokens": ["***"], "keys": ["x"]},
        "seed": 1,
    }


OFFLINE = """
import sys
from pathlib import Path
from worldmodel.config import LoggingOptions
from worldmodel.training.metrics import WandB
if __name__ == "__main__":
    url = "https://SECRET-of-config@host"
    wandb = WandB(LoggingOptions(wandb="offline"), Path(sys.argv[1]), {"path": url})
    wandb.write({"stage": "policy", "step": 1})
    wandb.close(timeout_seconds=30.0)
"""


def test_wandb_needs_no_home_and_records_no_secret_of_the_process(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    (tmp_path / "script.py").write_text(OFFLINE)
    (tmp_path / "run").mkdir()
    commit = ["-c", "user.name=x", "-c", "user.email=x", "commit", "--allow-empty", "-mx"]
    remote = ["remote", "add", "origin", "https://SECRET-of-git@host/a.git"]
    for words in (["init"], remote, commit):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    command = [sys.executable, "script.py", "run", "data.path=https://me:SECRET-of-command@host"]
    environment = {
        **os.environ, "WANDB_API_KEY": "SECRET-of-wandb" * 3, "MY_TOKEN": "SECRET-of-environment",
        "HOME": "/proc/nowhere",
    }  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert [path for path in files if b"SECRET" in path.read_bytes()] == []


UNREACHABLE = """
import sys, time
from pathlib import Path
from worldmodel.config import LoggingOptions
from worldmodel.training.metrics import WandB
if __name__ == "__main__":
    began = time.monotonic()
    wandb = WandB(LoggingOptions(wandb="online"), Path(sys.argv[1]), {})
    for step in range(20_000):  # more than are kept
        wandb.write({"stage": "policy", "step": step})
    wandb.close(timeout_seconds=1.0)
    print(time.monotonic() - began)
"""


def test_an_unreachable_service_does_not_block_training(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    script = tmp_path / "script.py"
    script.write_text(UNREACHABLE)
    nowhere = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=60,
        env={**os.environ, **nowhere},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 5
