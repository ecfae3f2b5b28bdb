"""Makes the folder `tfrecord` beside this file: `python make_tfrecord.py`.

TFDS needs TensorFlow to write TFRecord (pip install tensorflow tensorflow-datasets), so what it
wrote is kept for the tests. Row r of episode e has position (e, r), an image of colour 10 e + r,
some objects, action (r / 10, -1) and reward r. Episode 1 ends for real, the others by time-outs.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

ROWS = (4, 3, 5, 2)


class Sample(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        steps = {
            "observation": {
                "camera": tfds.features.Image(shape=(4, 6, 3)),
                "objects": tfds.features.Sequence({"label": np.int64, "size": np.float32}),
                "position": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            },
            "action": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            "reward": np.float32,
            "is_first": np.bool_,
            "is_last": np.bool_,
            "is_terminal": np.bool_,
        }
        features = tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for e, rows in enumerate(ROWS):
            yield e, {"steps": [step(e, r, rows) for r in range(rows)]}


def step(e: int, r: int, rows: int) -> dict:
    last = r == rows - 1
    return {
        "observation": {
            "camera": np.full((4, 6, 3), 10 * e + r, np.uint8),
            "objects": [{"label": i, "size": 0.5} for i in range(r % 3)],
            "position": np.array([e, r], np.float32),
        },
        "action": np.array([r / 10, -1], np.float32),
        "reward": 0.0 if last else float(r),
        "is_first": r == 0,
        "is_last": last,
        "is_terminal": last and e == 1,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        builder = Sample(data_dir=root, file_format="tfrecord")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
        shutil.copytree(builder.data_dir, Path(__file__).parent / "tfrecord", dirs_exist_ok=True)
