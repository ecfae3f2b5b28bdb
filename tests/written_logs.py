"""Small datasets in the formats and under the names that README and docs use.

All are of linear systems driven by noise: only their sizes and layouts matter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from pages import README, blocks
from scipy.signal import lfilter

# sizes of observations and actions
CHEETAH, HOPPER, QUADROTOR, PENDULUM = (17, 6), (11, 3), (13, 4), (3, 1)
EPISODES, STEPS = 10, 60


def episodes(observed: int, acted: int) -> dict[str, np.ndarray]:
    """Observations (E, T + 1, D), actions (E, T, A) in -1 to 1, rewards (E, T)."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (EPISODES, STEPS, acted))
    driven = actions @ rng.normal(size=(acted, observed)) / acted
    start = rng.normal(size=(EPISODES, 1, observed))
    observations = np.concatenate([start, lfilter([1.0], [1.0, -0.9], driven, axis=1)], 1)
    return {"observations": observations, "actions": actions, "rewards": -np.abs(driven).sum(-1)}


def flat(fields: dict[str, np.ndarray], rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """Concatenates the steps `rows` of every episode."""
    return {key: np.concatenate(value[:, rows]) for key, value in fields.items()}


def archive(sizes: tuple[int, int], path: Path) -> None:
    """T + 1 observations per episode, truncated at the end."""
    lengths, never = np.full(EPISODES, STEPS), np.zeros(EPISODES, bool)
    ends = {"lengths": lengths, "terminated": never, "truncated": ~never}
    np.savez(path, **flat(episodes(*sizes)), **ends)


def flights(path: Path) -> None:
    """As many observations as actions, and the lengths of the episodes."""
    rows = flat(episodes(*QUADROTOR), slice(STEPS))
    np.savez(path, **rows, episode_lengths=np.full(EPISODES, STEPS))


def d4rl(path: Path) -> None:
    marks = np.zeros((2, EPISODES, STEPS), bool)
    marks[1, :, -1] = True
    ends = dict(zip(("terminals", "timeouts"), marks.reshape(2, -1), strict=True))
    with h5py.File(path, "w") as file:
        for key, value in (flat(episodes(*HOPPER), slice(STEPS)) | ends).items():
            file.create_dataset(key, data=value.astype("f4" if value.dtype == "f8" else bool))


def tables(path: Path) -> None:
    """One table per episode; the last row has no action."""
    fields = episodes(3, 2)
    for number in range(EPISODES):
        time, actions = np.arange(STEPS + 1)[:, None] / 50, fields["actions"][number]
        rows = [time, fields["observations"][number], np.pad(actions, ((0, 1), (0, 0)))]
        columns(path.with_name(f"robot{number}.csv"), "t,x,y,z,m1,m2", np.concatenate(rows, 1))


def circuit(names: str, low: float, high: float, rows: int, path: Path) -> None:
    """Writes a table of an input, uniform between bounds, and its output."""
    driven = np.random.default_rng(0).uniform(low, high, rows)
    answer = np.tanh(lfilter([0.2], [1.0, -1.6, 0.8], driven))
    columns(path, names, np.stack([driven, answer], 1))


def tanks(path: Path) -> None:
    driven = np.random.default_rng(0).uniform(0, 7, (1024, 2))
    levels = lfilter([0.1], [1.0, -0.9], driven, axis=0)
    columns(path, "uEst,uVal,yEst,yVal", np.concatenate([driven, levels], 1))


def columns(path: Path, names: str, rows: np.ndarray) -> None:
    np.savetxt(path, rows, "%.6g", ",", header=names, comments="")


def mirror(path: Path) -> None:
    """Arrays (samples, channels, realizations, periods) of three amplitudes."""
    rng = np.random.default_rng(0)
    path.mkdir()
    for amplitude in (100, 200, 300):
        for part, realisations in (("train", 6), ("test", 3)):
            u = amplitude / 1000 * rng.normal(size=(256, 3, realisations, 2))
            y = 1e-6 * lfilter([1.0], [1.0, -0.5], u, axis=0)
            for kind, signal in (("u", u), ("y", y)):
                np.save(path / f"{kind}_{amplitude}mV_{part}.npy", signal)


def minari(path: Path) -> None:
    """A dataset with the sizes of the pen task, written by Minari."""
    program = """
import minari, numpy as np
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer
rng, spaces = np.random.default_rng(0), [Box(-np.inf, np.inf, (45,)), Box(-1, 1, (24,))]
buffers = [
    EpisodeBuffer(
        id=k, observations=list(rng.normal(size=(61, 45)).astype("f4")),
        actions=list(rng.uniform(-1, 1, (60, 24)).astype("f4")), rewards=list(rng.normal(size=60)),
        terminations=[False] * 60, truncations=[False] * 59 + [True],
    )
    for k in range(10)
]
minari.create_dataset_from_buffers("D4RL/pen/human-v2", buffers,
    observation_space=spaces[0], action_space=spaces[1])
"""
    where = os.environ | {"MINARI_DATASETS_PATH": str(path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, env=where)


def point(path: Path) -> None:
    """Runs the first Python block of the README."""
    subprocess.run(
        [sys.executable, "-c", blocks(README, "python")[0]], check=True, cwd=path.parents[1]
    )


WIENER = partial(circuit, "uBenchMark,yBenchMark", -3, 3, 188_000)
SILVERBOX = partial(circuit, "V1,V2", -0.1, 0.1, 131_072)

# What a command contains -> the file or folder it reads, and the function that writes it.
NAMED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "logs/*.csv": ("logs/*.csv", tables),
    "logs/halfcheetah.npz": ("logs/halfcheetah.npz", partial(archive, CHEETAH)),
    "logs/halfcheetah-replay.npz": ("logs/halfcheetah-replay.npz", partial(archive, CHEETAH)),
    "logs/hopper_medium.hdf5": ("logs/hopper_medium.hdf5", d4rl),
    "logs/others.npz": ("logs/others.npz", partial(archive, PENDULUM)),
    "logs/nanobench_50hz.npz": ("logs/nanobench_50hz.npz", flights),
    "logs/wiener_hammerstein.csv": ("logs/wiener_hammerstein.csv", WIENER),
    "logs/silverbox.csv": ("logs/silverbox.csv", SILVERBOX),
    "LOGS/wiener_hammerstein.csv": ("LOGS/wiener_hammerstein.csv", WIENER),
    "LOGS/silverbox.csv": ("LOGS/silverbox.csv", SILVERBOX),
    "LOGS/cascaded_tanks.csv": ("LOGS/cascaded_tanks.csv", tanks),
    "LOGS/fine_steering_mirror": ("LOGS/fine_steering_mirror", mirror),
    "--logs LOGS": ("LOGS/nanobench/nanobench_50hz.npz", flights),
    "--logs logs": ("logs/nanobench/nanobench_50hz.npz", flights),
    "datasets/point": ("datasets/point", point),
    "D4RL/pen/human-v2": ("minari", minari),
}


def write_named(command: str, folder: Path) -> None:
    """Writes the data that a command reads into `folder`, unless it exists."""
    for name, (place, write) in NAMED.items():
        path = folder / place
        if name in command and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
