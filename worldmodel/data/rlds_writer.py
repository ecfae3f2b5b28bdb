"""Writes the native format: TFDS in the RLDS layout, stored as ArrayRecord, without TensorFlow.

One record is one episode: `steps` with `observation`, `action`, `reward`, `is_first`, `is_last`,
`is_terminal` and `discount`; where final observations were not logged, also `is_observed`.
`readers/tfds.py` reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.card import build_card
from worldmodel.data.offsets import add_offset
from worldmodel.data.progress import progress_bar
from worldmodel.data.trajectories import Trajectories, check_dataset
from worldmodel.errors import require
from worldmodel.system.storage import atomic_folder

CARD = "card.json"
METADATA_KEY = "worldmodel"  # our entry in TFDS's metadata.json
NATIVE_FORMAT = "tfds"  # the reader of what is written here
OBSERVED = "is_observed"  # False in the last step of an episode whose observation was not logged


def write_rlds(
    trajectories: Trajectories, folder: Path, name: str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a dataset as a prepared TFDS directory with a `card.json`, atomically.

    Args:
        trajectories: the dataset
        folder: where to write; must be empty or missing
        name: name of the TFDS dataset
        metadata: stored with the dataset; `environment` is the Gymnasium id of its environment

    Raises:
        FileExistsError: `folder` is not empty
        StorageError: the disk is full or cannot be written; nothing is left there

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from worldmodel.data import Episode, load, stack_episodes, write_rlds
        >>> from worldmodel.data.readers.tfds import TFDSData
        >>> episode = Episode({"x": np.zeros((9, 2))}, np.ones((8, 1)), np.ones(8), terminated=True)
        >>> write_rlds(stack_episodes([episode], "one flight"), Path("flights"), "flights")
        >>> load(TFDSData(path="flights")).num_transitions
        8
    """
    check_dataset(trajectories)
    paths = isinstance(folder, str | Path) and isinstance(name, str)
    require(paths, "folder, name", f"{folder!r}, {name!r}", "a path and a name")
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(folder)
    extra = {
        METADATA_KEY: {
            **(metadata or {}),
            "action": dataclasses.asdict(trajectories.action_spec),
            **_conversions(trajectories),
        }
    }
    with atomic_folder(folder) as part:
        prepared = _prepare(trajectories, str(part / "tfds"), name, extra)
        for path in list(prepared.iterdir()):
            path.rename(part / path.name)
        shutil.rmtree(part / "tfds")
        (part / CARD).write_text(json.dumps(build_card(trajectories), indent=2) + "\n")


def _prepare(trajectories: Trajectories, root: str, name: str, metadata: dict[str, Any]) -> Path:
    """Has TFDS write the records and their description under `root`; returns the folder."""
    import tensorflow_datasets as tfds

    class RLDS(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        # Keeps TFDS from looking for checksums of downloads with importlib_resources, which it
        # does not install.
        code_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Trajectories in the RLDS layout, from {trajectories.source}.",
                features=_features(trajectories),
                metadata=tfds.core.MetadataDict(metadata),
                disable_shuffling=True,  # keeps the order of the episodes
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            count = trajectories.num_episodes
            for episode in progress_bar(range(count), count, f"writing {name}"):
                yield episode, {"steps": _steps(trajectories, episode)}

    RLDS.name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "dataset"
    builder = RLDS(data_dir=root, file_format="array_record")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints that it downloads
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _conversions(trajectories: Trajectories) -> dict[str, Any]:
    """What was done to the logged numbers: what is taken off vectors when they are read again, what
    was lost when they were read, and how images were made.
    """
    images = {k: dataclasses.asdict(v) for k, v in trajectories.image_conversions.items()}
    found = {
        "offsets": trajectories.vector_offsets,
        "lost_digits": trajectories.lost_digits,
        "images": images,
    }
    return {name: dict(value) for name, value in found.items() if value}


def _features(trajectories: Trajectories) -> Any:
    import tensorflow_datasets as tfds

    def tensor(values: np.ndarray) -> Any:
        # Lossless compression for images; writing TFDS's Image feature would need TensorFlow.
        # As numbers, TFDS would store float64 as float32.
        encoding = {"uint8": "zlib", "float64": "zlib"}.get(values.dtype.name, "none")
        return tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype, encoding=encoding)

    observation = {
        key: tensor(add_offset(value[:1], trajectories.vector_offsets.get(key, ())))
        for key, value in trajectories.observations.items()
    }
    steps = {
        "observation": tfds.features.FeaturesDict(observation),
        "action": tensor(trajectories.actions),
        "discount": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
    }
    if trajectories.rewards is not None:
        steps["reward"] = np.float32
    if trajectories.final_logged is not None:
        steps[OBSERVED] = np.bool_
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps)})


def _steps(trajectories: Trajectories, episode: int) -> dict[str, Any]:
    """The columns of one episode. `discount[t]`, like `reward[t]`, is of the transition from t."""
    start, length = trajectories.offsets[episode], trajectories.lengths[episode]
    part, step = slice(start, start + length), np.arange(length)
    terminated = bool(trajectories.terminated[episode])
    steps = {
        "observation": {
            key: add_offset(value[part], trajectories.vector_offsets.get(key, ()))
            for key, value in trajectories.observations.items()
        },
        "action": trajectories.actions[part],
        "discount": (step < length - 1 - terminated).astype(np.float32),
        "is_first": step == 0,
        "is_last": step == length - 1,
        "is_terminal": (step == length - 1) & terminated,
    }
    if trajectories.rewards is not None:
        steps["reward"] = trajectories.rewards[part]
    if trajectories.final_logged is not None:
        steps[OBSERVED] = step < trajectories.observed_lengths[episode]
    return steps
