"""Finds a prepared TFDS dataset in a folder or by the name of its builder, or prepares it.

Reading a prepared dataset needs neither TensorFlow nor the builder's code; preparing needs both.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from worldmodel.errors import DataError, did_you_mean, first_line
from worldmodel.system.storage import user_path

ACCEPTED = "a prepared TFDS directory (RLDS layout, with dataset_info.json)"
INFO = "dataset_info.json"  # marks a prepared directory
DEPTHS = ("", "*/", "*/*/", "*/*/*/")  # TFDS nests DATA_DIR/NAME/CONFIG/VERSION
NAME = re.compile(r"\w+(/[^/:]+)?(:[\d.*]+)?")
INSTALL_TENSORFLOW = 'pip install "worldmodel[tensorflow]"'
MAX_CONFIGS_SHOWN = 10  # in a message


def is_prepared(folder: Path) -> bool:
    """Whether TFDS has prepared a dataset in this folder."""
    return (folder / INFO).exists()


def holds_dataset(folder: Path) -> bool:
    """Whether a prepared dataset is in this folder, or below as TFDS nests them."""
    return any(next(folder.glob(f"{depth}{INFO}"), None) for depth in DEPTHS)


def prepared_folder(path: Path) -> Path:
    """`path`, or the only prepared directory below it."""
    if is_prepared(path):
        return path
    folders = sorted(info.parent for depth in DEPTHS for info in path.glob(f"{depth}{INFO}"))
    if len(folders) == 1:
        return folders[0]
    if folders:
        names = ", ".join(map(str, folders))
        raise DataError(f"{path} holds several datasets; set data.path to one of: {names}")
    raise DataError(f"{path} has no {INFO}; data=tfds reads {ACCEPTED}")


def prepared(name: str, data_dir: str | None) -> Path:
    """Returns the prepared directory of NAME, NAME/CONFIG or NAME/CONFIG:VERSION, by default of the
    newest version.

    Looks below `data_dir`, or else in TFDS's own folder, and prepares the dataset there if
    TensorFlow is installed. Raises DataError.
    """
    if not NAME.fullmatch(name):
        raise DataError(
            f"data.builder={name}: not the name of a TFDS builder; "
            "accepted: NAME, NAME/CONFIG or NAME/CONFIG:VERSION"
        )
    root = user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return _newest(name, root) or _prepare(name, root)


def _newest(name: str, root: Path) -> Path | None:
    """The newest version below ROOT/NAME/CONFIG, or None."""
    place, _, version = name.partition(":")
    infos = [*(root / place).glob(f"{version or '*'}/dataset_info.json")]
    return max((info.parent for info in infos), key=_version, default=None)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _prepare(name: str, root: Path) -> Path:
    """Downloads and prepares the dataset with TFDS and TensorFlow."""
    absent = f"{name} is not prepared below {root}{did_you_mean(name, _names(root))}"
    if unknown := _unknown(name):
        raise DataError(f"{absent}, and {unknown}")
    if importlib.util.find_spec("tensorflow") is None:
        python = (
            f"import tensorflow_datasets as tfds; tfds.builder({name!r}, data_dir={str(root)!r}, "
            "file_format='array_record').download_and_prepare()"
        )
        raise DataError(
            f"{absent}, and TFDS needs TensorFlow to prepare it: "
            f"{INSTALL_TENSORFLOW} and run this again, or prepare it elsewhere: "
            f'python -c "{python}"'
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # builders, downloads and TensorFlow raise any exception
        raise DataError(
            f"{absent}, and TFDS cannot prepare it ({type(error).__name__}: {first_line(error)})"
        ) from error
    return Path(builder.data_dir)


def _names(root: Path) -> list[str]:
    """NAME or NAME/CONFIG of every prepared dataset below `root`."""
    infos = [info for depth in ("*/*", "*/*/*") for info in root.glob(f"{depth}/dataset_info.json")]
    return sorted({info.parent.parent.relative_to(root).as_posix() for info in infos})


def _unknown(name: str) -> str | None:
    """Why TFDS does not have it: no such builder or config; None if it does."""
    import tensorflow_datasets as tfds

    builder, _, config = name.partition(":")[0].partition("/")
    builders = tfds.list_builders(with_community_datasets=False)
    if builder not in builders:
        return f"TFDS has no builder {builder!r}{did_you_mean(builder, builders)}"
    configs = list(tfds.builder_cls(builder).builder_configs)
    if config in configs or not (config or configs):
        return None
    accepted = ", ".join(configs[:MAX_CONFIGS_SHOWN]) or "the name alone"
    more = (
        f" and {len(configs) - MAX_CONFIGS_SHOWN} more" if len(configs) > MAX_CONFIGS_SHOWN else ""
    )
    wrong = (
        f"has no config {config!r}{did_you_mean(config, configs)}" if config else "needs a config"
    )
    return f"{builder} {wrong}; accepted: {accepted}{more}"
