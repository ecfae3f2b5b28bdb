"""The diffs of CONTRIBUTING.md apply to the repository, are as small as it says, and work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pages import PAGES, ROOT
from scripts import Done, run_in_one_process

DIFFS = dict(
    re.findall(r"^### (.+?)\n.*?^```diff\n(.*?)^```", PAGES["CONTRIBUTING.md"], re.M | re.S)
)
MAX_FILES = {
    "A model family": 1,
    "A policy algorithm": 1,
    "A data reader": 2,
    "A section of the evaluation": 1,
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with every diff applied."""
    copy = tmp_path_factory.mktemp("repository")
    for name in ("worldmodel", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, copy)
    for diff in DIFFS.values():
        apply = ["git", "apply", "--whitespace=error-all"]
        subprocess.run(apply, input=diff, text=True, cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def done(tree: Path, shared: Path) -> dict[str, Done]:
    """What the commands of the page left in the copy."""
    rng = np.random.default_rng(0)
    (tree / "logs").mkdir()
    for episode in range(3):
        steps = [
            {"observation": rng.normal(size=3).tolist(), "action": [0.1 * t], "reward": -t}
            for t in range(6)
        ]
        text = "".join(json.dumps(step) + "\n" for step in steps)
        (tree / "logs" / f"{episode}.jsonl").write_text(text)
    train = [
        "train.py", "experiment=smoke", "model=linear", "policy=crr", "policy.real_ratio=0.5",
        "training.policy.window=2", "policy.units=16", "policy.rollout_batch_size=8",
        "evaluation.episodes=1", "evaluation.num_samples=2",
        "evaluation.policy_ranking.rollouts_per_policy=0",
        "evaluation.policy_ranking.num_start_states=0",
        f"data.cache_dir={shared / 'datasets'}",
        f"training.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        "logging.wandb=disabled",
    ]  # fmt: skip
    inspect = ["worldmodel/data/__main__.py", "inspect", "logs/*.jsonl", "reward=reward"]
    return run_in_one_process({"train": train, "inspect": inspect}, tree, tree)


def test_there_is_a_diff_for_everything_that_can_be_registered():
    assert DIFFS.keys() == MAX_FILES.keys()


@pytest.mark.parametrize("title", sorted(DIFFS))
def test_a_diff_adds_few_files_and_at_most_one_line_elsewhere(title: str) -> None:
    files = re.split(r"^(?=diff --git )", DIFFS[title], flags=re.M)[1:]
    changed = [file for file in files if "\nnew file mode" not in file]
    lines = [line for file in changed for line in re.findall(r"^[+-](?![+-]{2} ).*", file, re.M)]
    assert len(files) - len(changed) <= MAX_FILES[title]
    assert len(lines) <= 1 and not any(line.startswith("-") for line in lines)


def test_the_added_family_and_algorithm_train_and_the_section_is_in_the_results(
    done: dict[str, Done], tree: Path
) -> None:
    assert "report.html" in done["train"].stdout, done["train"].stderr[-3000:]
    results = json.loads((tree / "runs" / "smoke-0" / "evaluation" / "results.json").read_text())
    assert np.isfinite(results["returns"]["policy"]["value"])
    errors = [results[key]["observation"]["1"]["error"] for key in ("prediction", "worst_case")]
    assert 0 < errors[0]["value"] <= errors[1]["value"] < np.inf


def test_the_added_reader_reads(done: dict[str, Done]) -> None:
    card = done["inspect"].stdout
    assert re.search(r"\b3\b.*episodes|episodes.*\b3\b", card), card
