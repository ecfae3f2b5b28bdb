"""Datasets, small models and finished runs that several tests share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests that need several devices start their own processes; here one is enough, and results are
# reproducible.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compilation; what is tested holds for less optimised programs too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The older of two ways to write kernels takes half the time; a compiler without it ignores this.
# A program in one part takes a fifth less than one in parts for several cores, and every core has
# its process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters "
    "--xla_cpu_parallel_codegen_split_count=1",
)
# Many tests build the same programs, and so do later runs of the suite.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import hypothesis
import numpy as np
import pytest

from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.trajectories import Trajectories

ROOT = Path(__file__).parents[1]

# An evaluation without most of its work.
SHORT = (
    "evaluation.episodes=1",
    "evaluation.num_samples=2",
    "evaluation.policy_ranking.rollouts_per_policy=0",
    "evaluation.policy_ranking.num_start_states=0",
)

# How long an example takes says something of the machine, and nothing of what is tested.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole runs come first: no long test is left for the end, and one worker
    trains the run that they share while the other has tests that do not wait for it.
    """
    runs = {"smoke_run", "launch", "small_run"}
    first = {i.path for i in items if runs & {*getattr(i, "fixturenames", ())}}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Twelve real Pendulum-v1 episodes of 200 steps."""
    from worldmodel.data.readers.gymnasium import collect

    cache = tmp_path_factory.mktemp("datasets")
    options = GymnasiumData(
        name="pendulum", environment="Pendulum-v1", episodes=12, cache_dir=str(cache)
    )
    return collect(options)


@pytest.fixture(scope="session")
def walker_spec() -> DataSpec:
    """DreamerV3's reference case for vectors: the walker's 14 + 1 + 9 numbers, 6 continuous
    actions.
    """
    sizes = {"height": 1, "orientations": 14, "velocity": 9}
    observations = {key: ObservationSpec((size,), "float32") for key, size in sizes.items()}
    return DataSpec(observations, ActionSpec(False, 6, (-1.0,) * 6, (1.0,) * 6))


@pytest.fixture(scope="session")
def image_spec() -> DataSpec:
    """DreamerV3's reference case for images: one of 64 x 64 x 3, 17 discrete actions."""
    return DataSpec({"image": ObservationSpec((64, 64, 3), "uint8")}, ActionSpec(True, 17))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the suite have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def launch(shared: Path) -> Callable[..., list[str]]:
    """From words to the command line of a real smoke run; all share their logs and compiled
    programs.
    """

    def command(*words: str, experiment: bool = True) -> list[str]:
        common = [
            f"data.cache_dir={shared / 'datasets'}",
            f"training.compilation_cache={Path(os.environ['JAX_COMPILATION_CACHE_DIR']).absolute()}",
            "logging.wandb=disabled",
        ]
        experiments = ["experiment=smoke"] if experiment else []
        return [sys.executable, str(ROOT / "train.py"), *experiments, *common, *words]

    return command


@pytest.fixture(scope="session")
def smoke_run(launch: Callable[..., list[str]], shared: Path) -> Path:
    """The folder of a finished run of experiment=smoke; whoever comes first makes it."""
    runs = shared / "runs"
    with (shared / "runs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (runs / "output.txt").exists():
            done = subprocess.run(launch(f"runs_dir={runs}"), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]
            (runs / "output.txt").write_text(done.stdout)
    return runs / "smoke-0"


@pytest.fixture(scope="session")
def train_words(launch: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """From words to those of train.py for a run of cheap models: both stages of experiment=smoke
    and a short evaluation, for tests of stopping, damage and resuming.
    """
    return lambda *words: launch("model=mlp", "policy=bc", "name=small", *SHORT, *words)[2:]


@pytest.fixture(scope="session")
def small_run(train_words: Callable[..., list[str]], shared: Path) -> Path:
    """The folder of a finished run of `train_words` without an evaluation, trained in this process
    by the first test that needs it.
    """
    from worldmodel.config.arguments import parse_overrides
    from worldmodel.config.compose import build_config
    from worldmodel.training.run import train

    runs = shared / "small_runs"
    with (shared / "small_runs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (runs / "finished").exists():
            overrides = parse_overrides(train_words(f"runs_dir={runs}"))
            assert train(build_config(ROOT / "configs", overrides), lambda run: 0) == 0
            (runs / "finished").touch()
    return runs / "small"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs the rights to")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def remount(small_disk: Path) -> Callable[[str], None]:
    """Mounts it anew with other options: `size=9m`, `ro` or `rw`."""

    def change(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(small_disk)], check=True)

    return change
