"""The features of a TFDS dataset: checked before TFDS sees them, since it imports the classes that
they name, and those of the steps.
"""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.observations import ObservationChoice
from worldmodel.data.readers.sizes import SMALL, check_size
from worldmodel.data.readers.tfds_builder import ACCEPTED
from worldmodel.errors import DataError, bullet_list

logger = logging.getLogger(__name__)

Keys = tuple[str, ...]  # path of a leaf in nested dicts

CLASSES = (
    *("FeaturesDict", "Dataset", "Sequence", "Tensor", "Scalar", "ClassLabel", "Text", "Image"),
    *("LabeledImage", "Video", "Audio", "BBoxFeature", "Optional", "Translation"),
    "TranslationVariableLanguages",
)
MODULES = "tensorflow_datasets.core.features."
NAMED_BY = ("pythonClassName", "python_class_name", "type")  # all spellings that TFDS reads
BYTES_PER_RECORD = 16  # at least


def check_features(folder: Path) -> None:
    """Raises DataError if `features.json` names a class that is not one of TFDS's own features."""
    file = folder / "features.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    foreign = [name for name in _class_names(content) if not _is_known(name)]
    if foreign:
        head = f"{file.name} names classes that would be imported"
        accepted = f"accepted: {', '.join(CLASSES)} of {MODULES.rstrip('.')}"
        raise DataError(f"{bullet_list(head, list(dict.fromkeys(foreign)))}\n  {accepted}")


def _class_names(content: Any) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if key in NAMED_BY and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from _class_names(value)


def _is_known(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return last in CLASSES and f"{module}.".startswith(MODULES)


def check_counts(folder: Path, files: Sequence[Path]) -> None:
    """Raises DataError if `dataset_info.json` counts more files or records than there can be."""
    size = sum(file.stat().st_size for file in files)
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info.get("splits", []):
        records = [int(count) for count in split.get("shardLengths", [])]
        if len(records) > len(files):
            raise DataError(
                f"split {split['name']!r} claims {len(records):,} files; accepted: up to "
                f"{len(files)}, as there are in the folder"
            )
        if min(records, default=0) < 0 or sum(records) * BYTES_PER_RECORD > size:
            raise DataError(
                f"split {split['name']!r} claims {sum(records):,} records; accepted: as many as "
                f"fit into the {size:,} bytes of the folder"
            )


def check_compressed(feature: Any, steps: Iterable[Any]) -> None:
    """Raises DataError if a tensor that TFDS compressed with zlib holds more than its shape."""
    for step in steps:
        shape, content = feature.shape, step
        if isinstance(step, Mapping):  # of variable shape
            shape, content = step.get("shape", ()), step.get("value")
        if not isinstance(content, bytes) or content[:1] != b"\x78":
            continue
        most = SMALL
        if None not in shape:
            most = math.prod(map(int, shape)) * dtype_of(feature).itemsize
            check_size(most, len(content))
        if len(zlib.decompressobj().decompress(content, most + 1)) > most:
            raise DataError(f"a step holds more than the {most:,} bytes of its shape {shape}")


def step_features(builder: Any, folder: Path) -> Mapping[str, Any]:
    """The features of one step as plain dicts. Raises DataError if they are not those of RLDS."""
    import tensorflow_datasets as tfds

    def plain(feature: Any) -> Any:
        if not isinstance(feature, tfds.features.FeaturesDict):
            return feature
        return {key: plain(inner) for key, inner in feature.items()}

    features = plain(builder.info.features)
    nested = features.get("steps") if isinstance(features, dict) else None
    if not isinstance(nested, tfds.features.Dataset):
        raise DataError(f"{folder} has no nested dataset `steps`; data=tfds reads {ACCEPTED}")
    steps = plain(nested.feature)
    missing = [key for key in ("observation", "action") if key not in steps]
    if missing:
        raise DataError(
            f"{folder}: steps have no {' and no '.join(missing)}; accepted: the RLDS layout"
        )
    action = steps["action"]
    if isinstance(action, dict):
        raise DataError(f"{folder}: action is a dict of {', '.join(action)}; accepted: one tensor")
    kind = dtype_of(action).kind
    if not (kind == "f" or (kind in "iu" and action.shape == ())):
        raise DataError(
            f"{folder}: action is {dtype_of(action)} of shape {action.shape}; "
            "accepted: floats of any shape, or one integer (a class)"
        )
    return steps


def dtype_of(feature: Any) -> np.dtype:
    """The dtype of a feature; object for a sequence of several fields."""
    return np.dtype(object if isinstance(feature.np_dtype, dict) else feature.np_dtype)


def numeric_observations(
    feature: Any, source: str, choice: ObservationChoice
) -> dict[str, tuple[Keys, Any]]:
    """Name -> path and feature of the numeric observations that are chosen; '/' joins names."""
    found, numeric = {}, {}
    for path, leaf in _leaves(feature):
        image = dtype_of(leaf) == np.uint8 and len(leaf.shape) == 3
        found["/".join(path) or ("image" if image else "observation")] = path, leaf
    for name in choice.among(found):
        path, leaf = found[name]
        dtype, shape = dtype_of(leaf), leaf.shape
        if dtype.kind in "iu" and shape == ():
            raise DataError(
                f"{source}: observation {name!r} is one integer ({dtype}); "
                "accepted: vectors of numbers and uint8 images (height, width, channels)"
            )
        if dtype.kind in "fiub":
            numeric[name] = (path, leaf)
        else:
            logger.warning("%s: observation %r is not numeric and is left out", source, name)
    if not numeric:
        raise DataError(f"{source}: no numeric observations; accepted: vectors, uint8 images")
    return numeric


def _leaves(feature: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if not isinstance(feature, dict):
        yield path, feature
        return
    for key, inner in feature.items():
        yield from _leaves(inner, (*path, key))
