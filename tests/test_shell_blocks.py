"""Every command of README, CONTRIBUTING and docs is typed into a shell, and succeeds.

A test is a block, or its quick part. It has a folder of its own, with the repository, the data that
its commands name and, under the name of every run that they name, a finished run at toy length.
Commands are typed as the page has them, followed by options of `SHORT` that shorten them. What
cannot be run here is listed in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import site
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, all_commands, blocks, commands
from written_logs import NAMED, write_named

TIMEOUT_SECONDS = 900
REPOSITORY = (
    "README.md", "benchmarks", "configs", "eval.py", "launch", "pyproject.toml", "tests",
    "train.py", "worldmodel",
)  # fmt: skip
QUICK = "--help|worldmodel.(data|status)"

# How a command begins -> why it is not run.
NOT_RUN = {
    "pip install": "needs a network; .ci/run installs into a fresh environment as the README says",
    "ruff": "run by .ci/run",
    "pyright": "run by .ci/run",
    "mkdocs": "run by .ci/run",
    "git clone": "needs a network: another project's code",
    "git -C SOURCE": "another project's code",
    "python3.11 -m venv ENVIRONMENT": "another project's environment",
    "ENVIRONMENT/bin/pip": "another project's environment, from a network",
    "python benchmarks/joint_update.py --source": "needs another project's code; run without it",
    "sbatch": "needs SLURM; tests/test_launch.py reads the script",
    "python train.py --multirun experiment=slurm": "needs SLURM; tests/test_sweeps.py does so "
    "with submitit's local jobs",
}  # fmt: skip

EVALUATION = (
    "evaluation.starts_per_episode=1 evaluation.num_samples=2 evaluation.episodes=2 "
    "evaluation.resamples=100 evaluation.policy_ranking.horizons=[5] "
    "evaluation.policy_ranking.num_action_sequences=2"
)
RANKED = (
    "evaluation.policy_ranking.rollouts_per_policy=2 evaluation.policy_ranking.num_start_states=1"
)
NOT_RANKED = (  # ranking is half of the time
    "evaluation.policy_ranking.rollouts_per_policy=0 evaluation.policy_ranking.num_start_states=0"
)
TRAINING = (
    "training.world_model.steps=4 training.policy.steps=4 training.steps_per_dispatch=2 "
    f"{EVALUATION} evaluation.horizons=[1,5] logging.wandb=disabled"
)
# What a command contains -> the options that shorten it; of several, all.
SHORT = {
    r"^python train\.py(?! --help)": f"{TRAINING} {NOT_RANKED} data.cache_dir=../datasets",
    r"model\.preset=12m": "training.world_model.batch_size=2 training.world_model.window=4",
    r"policy=mopo": "policy.rollout_batch_size=8",
    r"experiment=offline": "policy=bc,td3_bc",  # the first two of all
    r"^python eval\.py": f"{EVALUATION} {RANKED}",
    r"planner": "evaluation.planner.num_samples=8 evaluation.planner.num_elites=2 "
    "evaluation.planner.num_policy_samples=2 evaluation.planner.iterations=1 "
    "evaluation.planner.horizon=2",
    r"video=": "steps=20",
    r"episode=6": "episode=2",  # the toy run holds out three
    r"address=localhost": "training.distributed.coordinator_address=localhost:{port}",
    r"joint_update\.py": "--rounds 1 --repeats 1",
    r"default_job\.py": f"--seeds 0 --words {TRAINING} {NOT_RANKED}",
    r"data_delivery\.py": "--rounds 1",
    r"long_horizon\.py": "--batch 2 --repeats 1 --horizons 4 8",
    r"accuracy\.py": "--sets quadrotor --families gru mlp --steps 4 --batch 2 --window 8 "
    "--horizons 1 5",
    r"guided_diffusion\.py": f"--steps 4 --starts 4 --words {EVALUATION} evaluation.horizons=[1,5]",
    r"linear_recurrence\.py": "--batch 2 --modes 2 --repeats 1",
    r"fault_injection\.py": "--kills 1 --models koopman",
    r"memory\.py": "tiny 8 4",
    r"ranking\.py": f"--untrained 1 --target -1 --words {TRAINING} {RANKED}",
    r"dream\.py": "--envs 2 --steps 2 --repeats 1",
    r"bootstrap\.py": "--resamples 1000 --repeats 1",
    r"uncertainty\.py": "--sets pendulum quadrotor --seeds 0 --steps 4",
    r"offline_rl\.py": "--only seeds --rounds 1 --updates 2 --repeats 1",  # which need no CORL
    r"^python -m pytest": "--collect-only -p no:cacheprovider",  # tests are run as tests
}  # fmt: skip
NEEDS = {"HalfCheetah|Hopper|dream.py": "mujoco", "minari": "minari"}  # extras of `test`


def is_run(command: str) -> bool:
    return not any(command.startswith(beginning) for beginning in NOT_RUN)


def parts() -> Iterator[object]:
    """Every block, README first; where some of it is quick, in parts."""
    for page in ("README.md", *sorted(PAGES.keys() - {"README.md"})):
        for number, block in enumerate(blocks(PAGES[page], "sh")):
            run = filter(is_run, commands(block))
            for quick, typed in itertools.groupby(run, lambda c: bool(re.search(QUICK, c))):
                typed = list(typed)
                words = "-".join(typed[0].split()[1:4])
                marks = [] if quick else [pytest.mark.slow]
                yield pytest.param(typed, id=f"{page}-{number}-{words}", marks=marks)


def short(command: str) -> str:
    """The command, with words after it that make it short."""
    added = [words for pattern, words in SHORT.items() if re.search(pattern, command)]
    return " ".join([command, *added]).replace("{port}", str(free_port()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


# ------------------------------------------------------------------------------------- environment


@pytest.fixture
def home(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home directory of the tests, whose compilation cache is that of all tests."""
    programs = Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).absolute()
    kept = shared / "home" / ".cache" / "worldmodel"
    for made in (programs, kept):
        made.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (kept / "xla").symlink_to(programs)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    monkeypatch.setenv("PYTHONUSERBASE", site.getuserbase())  # else it moves with HOME
    monkeypatch.setenv("HOME", str(shared / "home"))
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture
def folder(tmp_path: Path, home: None) -> Path:
    """The repository, without files that are not part of it."""
    for name in REPOSITORY:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs" / "results").mkdir(parents=True)  # pictures go there
    return tmp_path


@pytest.fixture
def finish(
    folder: Path, launch: Callable[..., list[str]], request: pytest.FixtureRequest
) -> Callable[[str], None]:
    """Puts a finished toy run under every run name of a block: copies of one run, or where a block
    needs the best checkpoint, which that run has not kept, new runs that differ by their seeds.
    """
    best = ("training.policy.best_metric=policy/return", "training.policy.best_mode=max")

    def put(block: str) -> None:
        names = set(re.findall(r"(?<!--folder )\bruns/(\w+)|\bstatus runs", block))
        for seed, name in enumerate(sorted(names)):
            place = folder / "runs" / (name or "NAME")
            if "=best" in block:
                words = (f"runs_dir={place.parent}", f"name={place.name}", f"seed={seed}")
                subprocess.run(launch(*words, *best), check=True, capture_output=True)
            else:
                shutil.copytree(request.getfixturevalue("smoke_run"), place)

    return put


# -------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("typed", list(parts()))
def test_a_block_runs(typed: list[str], folder: Path, finish: Callable[[str], None]) -> None:
    block = "\n".join(typed)
    for named, module in NEEDS.items():
        if re.search(named, block):
            pytest.importorskip(module)
    finish(block)
    for command in typed:
        write_named(command, folder)
        run(short(command), folder)
        for made in re.findall(r"[^\s=]+\.(?:png|gif)", command):
            assert (folder / made).stat().st_size > 1000, command
        for name in re.findall(r"^python train.py .*\bname=(\w+)", command):
            assert (folder / "runs" / name / "evaluation" / "results.json").exists(), command


def run(command: str, folder: Path) -> None:
    """Types a command; where it waits for a second process, starts that in a second shell."""
    shells = [command]
    if "distributed.process_id=0" in command:
        shells.append(command.replace("distributed.process_id=0", "distributed.process_id=1"))
    outputs = [folder / f"shell{number}.txt" for number in range(len(shells))]
    processes = [start(*pair, folder) for pair in zip(shells, outputs, strict=True)]
    try:
        statuses = [process.wait(TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    printed = "\n".join(output.read_text()[-3000:] for output in outputs)
    assert not any(statuses), f"{command}\nended with {statuses}:\n{printed}"


def start(command: str, output: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Starts a shell in a process group of its own; prompts for input are answered by q (quit)."""
    (folder / "input.txt").write_text("q\n")
    with output.open("w") as printed, (folder / "input.txt").open() as keys:
        return subprocess.Popen(
            command, shell=True, cwd=folder, stdin=keys, stdout=printed, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def test_the_tables_above_match_commands_of_the_pages() -> None:
    every = all_commands()
    assert [key for key in NOT_RUN if not any(c.startswith(key) for c in every)] == []
    kept = list(filter(is_run, every))
    assert [key for key in SHORT if not any(re.search(key, c) for c in kept)] == []
    assert [key for key in NAMED if not any(key in c for c in kept)] == []
    assert len(kept) > 50
