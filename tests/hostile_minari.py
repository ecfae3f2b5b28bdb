"""Hostile Minari datasets."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hostile_sources import CODE, TEN_TB, Kinds, add, edited

from worldmodel.data.readers.minari import MinariData

VECTOR = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
ENTRY = {
    "id": "Evil-v0",
    "entry_point": "evil:Room",
    "reward_threshold": None,
    "nondeterministic": False,
    "max_episode_steps": None,
    "order_enforce": True,
    "disable_env_checker": True,
    "kwargs": {},
    "additional_wrappers": [],
    "vector_entry_point": None,
}


def minari(folder: Path, change: Callable[[Path], Any], format: str = "hdf5") -> MinariData:
    """A dataset that Minari wrote, changed; `change` receives the folder of its data."""
    from gymnasium import spaces
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    buffer = EpisodeBuffer(
        id=0, observations=list(np.zeros((6, 2), np.float32)),
        actions=list(np.zeros((5, 1), np.float32)), rewards=[0.0] * 5, terminations=[False] * 5,
        truncations=[False] * 4 + [True],
    )  # fmt: skip
    (folder / "evil.py").write_text(CODE)
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        create_dataset_from_buffers(
            "room/test-v0", [buffer], observation_space=spaces.Box(-1, 1, (2,)),
            action_space=spaces.Box(-1, 1, (1,)), data_format=format,
        )  # fmt: skip
    change(folder / "room/test-v0/data")
    return MinariData(dataset="room/test-v0", path=str(folder))


def _meta(**changes: Any) -> Callable[[Path], Any]:
    """Sets entries of the metadata; None removes one."""

    def change(content: dict) -> dict:
        return {k: v for k, v in (content | changes).items() if v is not None}

    return edited("metadata.json", change)


def _space(**changes: Any) -> Callable[[Path], Any]:
    return _meta(observation_space=json.dumps(VECTOR | changes))


def _nested(levels: int) -> str:
    return '{"type": "Tuple", "subspaces": [' * levels + json.dumps(VECTOR) + "]}" * levels


def _hdf5(change: Callable[[h5py.Group], Any]) -> Callable[[Path], Any]:
    def edit(place: Path) -> None:
        with h5py.File(place.parents[2] / "secret.h5", "w") as other:
            other["x"] = np.zeros((6, 2), np.float32)
        with h5py.File(place / "main_data.hdf5", "a") as file:
            change(file["episode_0"])

    return edit


def _instead(key: str, value: Any) -> Callable[[Path], Any]:
    def change(group: h5py.Group) -> None:
        del group[key]
        if callable(value):
            value(group, key)
        else:
            group[key] = value

    return _hdf5(change)


def _never(group: h5py.Group, key: str) -> None:
    group.create_dataset(key, (6, 2), "f4")


def _elsewhere(group: h5py.Group, key: str) -> None:
    group.create_dataset(
        key,
        (6, 2),
        "f4",
        external=[(str(Path(group.file.filename).parents[3] / "secret.h5"), 0, 48)],
    )


def _claims(group: h5py.Group, key: str) -> None:
    data = group.create_dataset(key, (2**31, 2), "f4", chunks=(2**26, 2), compression=9)
    for chunk in range(32):
        data.id.write_direct_chunk((chunk * 2**26, 0), b"\x78\x9c")


def _arrow(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def edit(place: Path) -> None:
        for file in (place / "0").iterdir():
            if file.suffix != ".json":
                file.write_bytes(change(file.read_bytes()))

    return edit


SETS: Kinds = {
    "an environment in place of spaces": (
        lambda f: minari(f, _meta(observation_space=None, env_spec=json.dumps(ENTRY))),
        "observation_space",
    ),
    "an environment beside spaces": (lambda f: minari(f, _meta(env_spec=json.dumps(ENTRY))), ""),
    "no spaces": (lambda f: minari(f, _meta(observation_space=None, action_space=None)), "space"),
    "an unknown space": (lambda f: minari(f, _space(type="os.system")), "os.system"),
    "a graph": (lambda f: minari(f, _space(type="Graph")), "Graph"),
    "a space that is a number": (lambda f: minari(f, _meta(observation_space="5")), "data"),
    "a box of another shape": (lambda f: minari(f, _space(shape=[3])), "data"),
    "a box of 10 TB": (lambda f: minari(f, _space(shape=[TEN_TB], low=-1, high=1)), "data"),
    "a box of an unknown type": (lambda f: minari(f, _space(dtype="object")), "data"),
    "10^12 classes": (
        lambda f: minari(
            f,
            _meta(
                observation_space=json.dumps(
                    {"type": "Discrete", "dtype": "int64", "start": 0, "n": 10**12}
                )
            ),
        ),
        "observation",
    ),
    "no classes": (
        lambda f: minari(
            f,
            _meta(
                observation_space=json.dumps(
                    {"type": "Discrete", "dtype": "int64", "start": 0, "n": -1}
                )
            ),
        ),
        "data",
    ),
    "10^12 classes of actions": (
        lambda f: minari(
            f,
            _meta(
                action_space=json.dumps(
                    {"type": "Discrete", "dtype": "int64", "start": 0, "n": 10**12}
                )
            ),
        ),
        "action",
    ),
    "spaces of 2,000 levels": (lambda f: minari(f, _meta(observation_space=_nested(2000))), "data"),
    "10^13 episodes": (lambda f: minari(f, _meta(total_episodes=TEN_TB)), "total_episodes"),
    "10^7 episodes": (lambda f: minari(f, _meta(total_episodes=10**7)), "total_episodes"),
    "-1 episodes": (lambda f: minari(f, _meta(total_episodes=-1)), "data"),
    "episodes that are text": (lambda f: minari(f, _meta(total_episodes="x")), "data"),
    "an unknown format": (lambda f: minari(f, _meta(data_format="pickle")), "data"),
    "another name": (lambda f: minari(f, _meta(dataset_id="../../x")), ""),
    "a future version": (lambda f: minari(f, _meta(minari_version="99.0")), "data"),
    "metadata that are a list": (
        lambda f: minari(f, edited("metadata.json", lambda j: [])),
        "data",
    ),
    "metadata that are no JSON": (
        lambda f: minari(f, lambda p: (p / "metadata.json").write_text("{")),
        "data",
    ),
    "no data": (lambda f: minari(f, lambda p: (p / "main_data.hdf5").unlink()), "data"),
    "data cut in half": (
        lambda f: minari(
            f,
            lambda p: (p / "main_data.hdf5").write_bytes(
                (p / "main_data.hdf5").read_bytes()[:3000]
            ),
        ),
        "cannot be read",
    ),
    "no episodes": (
        lambda f: minari(f, lambda p: h5py.File(p / "main_data.hdf5", "w").close()),
        "episode 0",
    ),
    "an external link": (
        lambda f: minari(f, _instead("observations", h5py.ExternalLink("../../../secret.h5", "x"))),
        "another file",
    ),
    "external storage": (lambda f: minari(f, _instead("observations", _elsewhere)), "another file"),
    "nothing written": (lambda f: minari(f, _instead("observations", _never)), "were written"),
    "16 GB claimed": (lambda f: minari(f, _instead("observations", _claims)), "accepted: up to"),
    "observations that are text": (
        lambda f: minari(f, _instead("observations", "text")),
        "episode 0",
    ),
    "observations in a group": (
        lambda f: minari(f, _instead("observations", lambda g, k: g.create_group(k))),
        "episode 0",
    ),
    "2-D rewards": (lambda f: minari(f, _instead("rewards", np.zeros((5, 2)))), "reward"),
    "Arrow of zeros": (lambda f: minari(f, _arrow(lambda b: bytes(len(b))), "arrow"), "episode 0"),
    "Arrow cut in half": (
        lambda f: minari(f, _arrow(lambda b: b[: len(b) // 2]), "arrow"),
        "episode 0",
    ),
    "Parquet cut in half": (
        lambda f: minari(f, _arrow(lambda b: b[: len(b) // 2]), "parquet"),
        "episode 0",
    ),
    "a name that climbs": (
        lambda f: MinariData(dataset="../../etc", path=str(f)),
        "has no Minari dataset",
    ),
    "a name that is too long": (
        lambda f: MinariData(dataset="x" * 5000, path=str(f)),
        "has no Minari dataset",
    ),
    "a name with a null": (lambda f: MinariData(dataset="a\0b", path=str(f)), "null characters"),
}
add("minari", SETS)
