"""TFDS data sets by the name of their builder: found where they were prepared, else prepared.

Reading what is prepared needs neither TensorFlow nor the builder's code; preparing needs both.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from worldmodel.errors import DataError, did_you_mean, first_line

NAME = re.compile(r"\w+(/[^/:]+)?(:[\d.*]+)?")
INSTALL_TENSORFLOW = 'pip install "worldmodel[tensorflow]"'
MOST_CONFIGS = 10  # that a message names


def prepared(name: str, data_dir: str | None) -> Path:
    """The prepared directory of NAME, NAME/CONFIG or NAME/CONFIG:VERSION; the newest version of
    several.

    It is looked for under `data_dir`, else in TFDS's own folder, and prepared there if TensorFlow
    is installed. Raises DataError.
    """
    if not NAME.fullmatch(name):
        raise DataError(
            f"data.builder={name} is no name of a TFDS builder; "
            "accepted: NAME, NAME/CONFIG or NAME/CONFIG:VERSION"
        )
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return _found(name, root) or _prepare(name, root)


def _found(name: str, root: Path) -> Path | None:
    """The newest version below ROOT/NAME/CONFIG, or None."""
    place, _, version = name.partition(":")
    infos = [*(root / place).glob(f"{version or '*'}/dataset_info.json")]
    return max((info.parent for info in infos), key=_version, default=None)


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _prepare(name: str, root: Path) -> Path:
    """Downloads and prepares the data set, with TFDS and TensorFlow."""
    absent = f"{name} is not prepared under {root}{did_you_mean(name, _names(root))}"
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
    except Exception as error:  # builders, downloads and TensorFlow raise whatever they met
        raise DataError(
            f"{absent}, and TFDS cannot prepare it ({type(error).__name__}: {first_line(error)})"
        ) from error
    return Path(builder.data_dir)


def _names(root: Path) -> list[str]:
    """NAME or NAME/CONFIG of all that is prepared under `root`."""
    infos = [info for depth in ("*/*", "*/*/*") for info in root.glob(f"{depth}/dataset_info.json")]
    return sorted({info.parent.parent.relative_to(root).as_posix() for info in infos})


def _unknown(name: str) -> str | None:
    """Why TFDS cannot have it: no such builder, or no such config. Else None."""
    import tensorflow_datasets as tfds

    builder, _, config = name.partition(":")[0].partition("/")
    known = tfds.list_builders(with_community_datasets=False)
    if builder not in known:
        return f"TFDS has no builder {builder!r}{did_you_mean(builder, known)}"
    configs = list(tfds.builder_cls(builder).builder_configs)
    if config in configs or not (config or configs):
        return None
    accepted = ", ".join(configs[:MOST_CONFIGS]) or "the name alone"
    more = f" and {len(configs) - MOST_CONFIGS} more" if len(configs) > MOST_CONFIGS else ""
    wrong = (
        f"has no config {config!r}{did_you_mean(config, configs)}" if config else "needs a config"
    )
    return f"{builder} {wrong}; accepted: {accepted}{more}"
