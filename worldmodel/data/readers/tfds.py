"""TFDS in the RLDS layout, stored as ArrayRecord: the native format, without TensorFlow.

One record is one episode, `steps` with `observation`, `action`, `reward`, `is_first`, `is_last`,
`is_terminal` and `discount`. tensorflow_datasets is imported inside the functions, since that takes
a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.config import TFDSData
from worldmodel.data.card import card
from worldmodel.data.readers import existing_path
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.validation import Episode, stack_episodes
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

ACCEPTED = "a prepared TFDS directory (RLDS layout, array_record files, with dataset_info.json)"
METADATA_KEY = "worldmodel"  # our part of TFDS's metadata.json

Keys = tuple[str, ...]  # where a leaf is in nested dicts


# ------------------------------------------------------------------------------------------- write


def write(
    trajectories: Trajectories, folder: Path, name: str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes `folder`, a prepared TFDS directory with a `card.json`: whole, or not at all.

    `metadata` is kept beside the action spec; `environment` is its one key with a meaning. Raises
    FileExistsError if something is in `folder`, also when another process finished it meanwhile.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    extra = {
        METADATA_KEY: {**(metadata or {}), "action": dataclasses.asdict(trajectories.action_spec)}
    }
    # A sibling, because a rename is atomic only within one file system.
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.incomplete-", dir=folder.parent
    ) as root:
        prepared = _prepare(trajectories, root, name, extra)
        (prepared / "card.json").write_text(json.dumps(card(trajectories), indent=2) + "\n")
        try:
            os.rename(prepared, folder)
        except OSError as error:
            if folder.exists():
                raise FileExistsError(folder) from error
            raise


def _prepare(trajectories: Trajectories, root: str, name: str, metadata: dict[str, Any]) -> Path:
    """Has TFDS write the records and their description under `root`; returns where."""
    import tensorflow_datasets as tfds

    class RLDS(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        # TFDS would look for checksums of downloads next to the code, with importlib_resources,
        # which it does not install.
        code_path = None

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Trajectories in the RLDS layout, from {trajectories.source}.",
                features=_features(trajectories),
                metadata=tfds.core.MetadataDict(metadata),
                disable_shuffling=True,  # episodes stay in their order
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for episode in range(trajectories.num_episodes):
                yield episode, {"steps": _steps(trajectories, episode)}

    RLDS.name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    builder = RLDS(data_dir=root, file_format="array_record")
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
        builder.download_and_prepare()
    return Path(builder.data_dir)


def _features(trajectories: Trajectories) -> Any:
    import tensorflow_datasets as tfds

    def tensor(rows: np.ndarray) -> Any:
        # Images are compressed without loss; TFDS's own Image feature needs TensorFlow to write.
        encoding = "zlib" if rows.dtype == np.uint8 else "none"
        return tfds.features.Tensor(shape=rows.shape[1:], dtype=rows.dtype, encoding=encoding)

    observation = {key: tensor(value) for key, value in trajectories.observations.items()}
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
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(steps)})


def _steps(trajectories: Trajectories, episode: int) -> dict[str, Any]:
    """The columns of one episode. `discount[t]`, like `reward[t]`, belongs to the step from t."""
    start, length = trajectories.offsets[episode], trajectories.lengths[episode]
    rows, row = slice(start, start + length), np.arange(length)
    terminated = bool(trajectories.terminated[episode])
    steps = {
        "observation": {key: value[rows] for key, value in trajectories.observations.items()},
        "action": trajectories.actions[rows],
        "discount": (row < length - 1 - terminated).astype(np.float32),
        "is_first": row == 0,
        "is_last": row == length - 1,
        "is_terminal": (row == length - 1) & terminated,
    }
    if trajectories.rewards is not None:
        steps["reward"] = trajectories.rewards[rows]
    return steps


# -------------------------------------------------------------------------------------------- read


def read(options: TFDSData) -> Trajectories:
    """Reads a prepared TFDS directory, ours or any other in the RLDS layout.

    `observation` is a tensor or a dict of tensors; `action` a vector of floats or one integer. Its
    bounds come from our metadata, else from the minimum and maximum of the data. As in RLDS, the
    last row's action and reward are padding; so they are where the last step is not marked
    `is_last`: the log broke off, and there is no successor. Episodes of a single row hold no
    transition and are left out, with a warning. Raises DataError for any other layout or format.
    """
    folder = _prepared_folder(existing_path(options, ACCEPTED))
    builder = _builder(folder)
    source = f"{folder} ({options.split})"
    steps = _step_features(builder, folder)
    episodes = _episodes(_records(builder, options.split, folder), steps, source)
    return stack_episodes(episodes, source, _action_spec(builder, steps))


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata that `write` was given, such as `environment`; empty for foreign sets."""
    return _our_metadata(_builder(_prepared_folder(Path(folder))))


def _prepared_folder(path: Path) -> Path:
    """`path`, or the only prepared directory in it (TFDS nests DATA_DIR/NAME/VERSION)."""
    if (path / "dataset_info.json").exists():
        return path
    found = sorted(
        info.parent
        for depth in ("*", "*/*", "*/*/*")
        for info in path.glob(f"{depth}/dataset_info.json")
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{path} holds several data sets; set data.path to one of: {', '.join(map(str, found))}"
        )
    raise DataError(f"{path} has no dataset_info.json; data=tfds reads {ACCEPTED}")


def _builder(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS raises whatever its parser met
        raise DataError(
            f"{folder}: TFDS cannot open it ({_first_line(error)}); data=tfds reads {ACCEPTED}"
        ) from error
    formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
    if "array_record" not in formats:
        raise DataError(
            f"{folder} is stored as {' and '.join(formats) or 'an unknown format'}; "
            "accepted: array_record (convert: tfds convert_format --out_file_format=array_record)"
        )
    return builder


def _step_features(builder: Any, folder: Path) -> Mapping[str, Any]:
    """The features of one step, as plain dicts, checked to be RLDS's."""
    import tensorflow_datasets as tfds

    def plain(feature: Any) -> Any:
        if not isinstance(feature, tfds.features.FeaturesDict):
            return feature
        return {key: plain(inner) for key, inner in feature.items()}

    features = plain(builder.info.features)
    nested = features.get("steps") if isinstance(features, dict) else None
    if not isinstance(nested, tfds.features.Dataset):
        raise DataError(f"{folder} has no nested data set `steps`; data=tfds reads {ACCEPTED}")
    steps = plain(nested.feature)
    missing = [key for key in ("observation", "action") if key not in steps]
    if missing:
        raise DataError(
            f"{folder}: steps have no {' and no '.join(missing)}; accepted: the RLDS layout"
        )
    action = steps["action"]
    if isinstance(action, dict):
        raise DataError(f"{folder}: action is a dict of {', '.join(action)}; accepted: one tensor")
    kind = np.dtype(action.np_dtype).kind
    if not (kind == "f" or (kind in "iu" and action.shape == ())):
        raise DataError(
            f"{folder}: action is {np.dtype(action.np_dtype)} of shape {action.shape}; "
            "accepted: floats of any shape, or one integer, the class"
        )
    return steps


def _records(builder: Any, split: str, folder: Path) -> Any:
    """The episodes of a split as a sequence of records whose steps are columns."""
    import tensorflow_datasets as tfds

    try:
        # Without SkipDecoding, TFDS decodes step by step: ten times slower.
        return builder.as_data_source(
            split, decoders={"steps": tfds.decode.SkipDecoding()}, file_format="array_record"
        )
    except (ValueError, KeyError, OSError) as error:
        known = ", ".join(builder.info.splits)
        raise DataError(
            f"{folder}: cannot read split {split!r} ({_first_line(error)}); splits: {known}"
        ) from error


def _action_spec(builder: Any, steps: Mapping[str, Any]) -> ActionSpec | None:
    """From our metadata, else from a feature that knows its classes, else None."""
    if raw := _our_metadata(builder).get("action"):
        return ActionSpec(raw["discrete"], raw["size"], tuple(raw["low"]), tuple(raw["high"]))
    classes = getattr(steps["action"], "num_classes", None)
    return ActionSpec(True, classes) if classes else None


def _our_metadata(builder: Any) -> dict[str, Any]:
    metadata = builder.info.metadata
    return dict(metadata.items()).get(METADATA_KEY, {}) if metadata is not None else {}


def _episodes(records: Any, features: Mapping[str, Any], source: str) -> Iterator[Episode]:
    observations = _observations(features["observation"], source)
    short = discarded = 0
    for index in range(len(records)):
        where = f"{source}: episode {index}"
        steps = _record(records, index, where)["steps"]
        actions = _column(features["action"], steps["action"], f"{where}: action")
        if len(actions) < 2:
            short += 1
            continue
        _check_ends(steps, where)
        rewards = (
            _column(features["reward"], steps["reward"], f"{where}: reward")
            if "reward" in features
            else None
        )
        discarded += rewards is not None and bool(np.any(rewards[-1]))
        yield Episode(
            observations={
                key: _column(
                    feature, _at(steps["observation"], path), f"{where}: observation {key!r}"
                )
                for key, (path, feature) in observations.items()
            },
            actions=actions,
            rewards=rewards,
            terminated="is_terminal" in steps and bool(steps["is_terminal"][-1]),
            name=f"episode {index}",
        )
    if short:
        logger.warning(
            "%s: %d episodes of a single row left out, they hold no transition", source, short
        )
    if discarded:
        logger.warning(
            "%s: %d episodes have a reward in their last row, where RLDS has padding",
            source,
            discarded,
        )


def _record(records: Any, index: int, where: str) -> Mapping[str, Any]:
    try:
        return records[index]
    except Exception as error:  # ArrayRecord and protobuf raise whatever they met
        raise DataError(
            f"{where} cannot be read ({_first_line(error)}); the files may be damaged or missing"
        ) from error


def _check_ends(steps: Mapping[str, Any], where: str) -> None:
    """An end in the middle means several episodes in one record: no transition may cross it."""
    for field in ("is_last", "is_terminal"):
        inside = np.flatnonzero(steps[field][:-1]) if field in steps else ()
        if len(inside):
            raise DataError(
                f"{where} row {inside[0]}: {field} before the last row, {len(steps[field]) - 1}; "
                "accepted: one episode a record"
            )


def _observations(feature: Any, source: str) -> dict[str, tuple[Keys, Any]]:
    """Name -> path and feature of the observations that are numbers; '/' joins nested names."""
    kept = {}
    for path, leaf in _leaves(feature):
        dtype, shape = np.dtype(leaf.np_dtype), leaf.shape
        image = dtype == np.uint8 and len(shape) == 3
        name = "/".join(path) or ("image" if image else "observation")
        if dtype.kind in "iu" and shape == ():
            raise DataError(
                f"{source}: observation {name!r} is one integer ({dtype}); "
                "accepted: vectors of numbers and uint8 images (height, width, channels)"
            )
        if dtype.kind in "fiub":
            kept[name] = (path, leaf)
        else:
            logger.warning("%s: observation %r left out, it holds no numbers", source, name)
    if not kept:
        raise DataError(f"{source}: no observation holds numbers; accepted: vectors, uint8 images")
    return kept


def _leaves(feature: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if not isinstance(feature, dict):
        yield path, feature
        return
    for key, inner in feature.items():
        yield from _leaves(inner, (*path, key))


def _at(tree: Any, path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _column(feature: Any, raw: Any, where: str) -> np.ndarray:
    """(T+1, ...) values of a field that was stored as numbers, or encoded row by row."""
    if isinstance(raw, np.ndarray) and raw.dtype != object:
        return raw
    if isinstance(raw, Mapping):  # a tensor of free shape is stored as two columns, value and shape
        raw = [dict(zip(raw, row, strict=True)) for row in zip(*raw.values(), strict=True)]
    try:
        return np.stack([feature.decode_example_np(row) for row in raw])
    except Exception as error:  # decoders raise whatever they met
        raise DataError(
            f"{where} cannot be decoded ({_first_line(error)}); accepted: one shape in every row"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
