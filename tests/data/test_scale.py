"""Large and odd sizes are inspected in seconds, with memory in proportion to what is loaded."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from worldmodel.data import ActionSpec, Trajectories, build_card

MIB = 2**20
SIZES = {  # episodes, transitions of each, columns, classes (0: two continuous actions)
    "200,000 episodes of 3 transitions": (200_000, 3, 3, 0),
    "5,000 columns": (20, 100, 5000, 0),
    "20,000 classes of actions": (50, 1000, 3, 20_000),
    "one record of 3,000,000 transitions": (1, 3_000_000, 4, 0),
}


def test_the_card_of_many_episodes_takes_time_in_proportion() -> None:
    count = 100_000
    made = Trajectories(
        observations={"x": np.arange(6.0 * count, dtype=np.float32).reshape(-1, 2)},
        actions=np.zeros(3 * count, np.int32),
        rewards=np.zeros(3 * count, np.float32),
        lengths=np.full(count, 3),
        terminated=np.zeros(count, bool),
        action_spec=ActionSpec(True, 2),
        source="many",
    )
    began = time.process_time()
    assert build_card(made)["episodes"] == count
    assert time.process_time() - began < 20  # a minute where it grows with the square


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_large_datasets_are_inspected(tmp_path: Path, name: str) -> None:
    episodes, length, columns, classes = SIZES[name]
    rng, steps = np.random.default_rng(0), episodes * length
    actions = rng.integers(0, classes, steps) if classes else rng.uniform(-1, 1, (steps, 2))
    observations = rng.normal(size=(steps + episodes, columns)).astype(np.float32)
    np.savez(
        tmp_path / "logs.npz",
        observations=observations,
        actions=actions,
        rewards=np.ones(steps, np.float32),
        lengths=np.full(episodes, length),
        terminated=np.zeros(episodes, bool),
    )
    command = [sys.executable, "-m", "worldmodel.data", "inspect", str(tmp_path / "logs.npz")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [*command, f"output_dir={tmp_path / 'out'}", "cache=never"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = observations.nbytes + 12 * steps
    print(
        f"{name}: {used.ru_utime - before:.0f} s of CPU, {used.ru_maxrss / 1024:.0f} MiB of memory"
    )
    assert used.ru_maxrss * 1024 <= 1.5 * loaded + 300 * MIB
