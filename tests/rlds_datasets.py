"""TFDS datasets in the RLDS layout for the tests of their reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldmodel.data import ActionSpec, Trajectories, load
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import DataError

LENGTHS = [4, 2, 7]
ROWS = sum(LENGTHS)
LAST = np.cumsum(LENGTHS) - 1


def logs(discrete: bool = False, reward: bool = True) -> Trajectories:
    """Three episodes with vectors and an image; the second one is terminal."""
    generator = np.random.default_rng(0)
    awkward = np.array([-0.0, 1e-45, 9e37, 1 / 3], np.float32)  # a denormal, nearly too large
    actions = generator.uniform([-2, -0.3], [0.3, 7], (ROWS, 2)).astype(np.float32)
    if discrete:
        actions = generator.integers(0, 4, ROWS).astype(np.int32)
    actions[LAST] = 0
    rewards = generator.standard_normal(ROWS).astype(np.float32)
    rewards[LAST] = 0
    spec = ActionSpec(False, 2, (-2.0, -1 / 3), (1 / 3, 7.1))
    return Trajectories(
        observations={
            "velocity": generator.standard_normal((ROWS, 3)).astype(np.float32),
            "awkward": np.tile(awkward, (ROWS, 1)),
            "camera": generator.integers(0, 256, (ROWS, 6, 5, 3)).astype(np.uint8),
        },
        actions=actions,
        rewards=rewards if reward else None,
        lengths=np.array(LENGTHS),
        terminated=np.array([False, True, False]),
        action_spec=ActionSpec(True, 4) if discrete else spec,
        source="test",
    )


def foreign(
    folder: Path,
    steps: dict,
    episodes: list,
    layout: str = "steps",
    called: str = "foreign",
    version: str = "2.1.0",
    config: str | None = None,
) -> Path:
    """A dataset prepared by another builder, in FOLDER/CALLED/[CONFIG/]VERSION."""
    import tensorflow_datasets as tfds

    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        code_path = None
        name = called

        def _info(self):
            features = tfds.features.FeaturesDict({layout: tfds.features.Dataset(steps)})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, episode in enumerate(episodes):
                yield index, {layout: episode}

    tfds.disable_progress_bar()
    made = Foreign(data_dir=str(folder), file_format="array_record")
    made.download_and_prepare()
    return Path(made.data_dir)


def ends(rows: int, last: bool = True, terminal: bool = False) -> dict[str, np.ndarray]:
    row = np.arange(rows)
    return {
        "is_first": row == 0,
        "is_last": (row == rows - 1) & last,
        "is_terminal": (row == rows - 1) & terminal,
    }


def tensor(*shape: int | None, dtype: type = np.float32, **options):
    import tensorflow_datasets as tfds

    return tfds.features.Tensor(shape=shape, dtype=dtype, **options)


FLAGS = {"is_first": np.bool_, "is_last": np.bool_, "is_terminal": np.bool_}


def simple(rows: int, **flags) -> dict:
    return {
        "observation": np.arange(rows, dtype=np.float32)[:, None],
        "action": np.linspace(-1, 1, rows, dtype=np.float32)[:, None],
        "reward": (np.arange(rows) < rows - 1).astype(np.float32),
        **ends(rows, **flags),
    }


def simple_steps() -> dict:
    return {"observation": tensor(1), "action": tensor(1), "reward": np.float32, **FLAGS}


def refused(folder: Path, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load(TFDSData(path=str(folder)))
    assert str(folder) in str(caught.value)
