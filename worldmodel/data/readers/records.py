"""Records of the inputs and outputs of a system in npy files, as in system identification.

A folder holds files of inputs and of outputs, which are paired by their names: what follows `u_` in
one follows `y_` in the other, or, with other patterns, what their wildcards stand for.

An array is (samples,), (samples, channels) or (samples, channels, realizations), where each
realization is a record, or (samples, channels, realizations, periods), where the consecutive
periods of a realization are joined to one record.

A record of T+1 samples gives T transitions: the last input is padding. With `data.feedthrough` an
input acts on the output of its own sample, and becomes the action of the previous sample.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, feedthrough, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers.files import existing_path, reading, summary
from worldmodel.errors import DataError, bullet_list

# The parts of a pattern, and what each stands for.
WILDCARD = re.compile(r"(\*\*/|\*+|\?|\[!?\]?[^\]]*\])")
STANDS_FOR = {"**/": "(.*/)?", "*": "([^/]*)", "**": "([^/]*)", "?": "([^/])"}
SHAPES = "(samples,) to (samples, channels, realizations, periods)"

Pair = tuple[Path, Path]


@dataclass
class RecordsData(DataOptions):
    """Inputs and outputs of a system in npy files: a folder of u_*.npy and y_*.npy."""

    name: str = option("records", "data source")
    inputs: str = option("u_*.npy", "pattern of the files of inputs, which become actions")
    outputs: str = option(
        "y_*.npy",
        "pattern of the files of outputs, which become observations, paired by their names",
    )
    feedthrough: bool = feedthrough()

    def errors(self) -> Iterator[str]:
        for key in ("inputs", "outputs"):
            names = getattr(self, key)
            if not names or Path(names).is_absolute() or ".." in Path(names).parts:
                yield f"data.{key}={names}: accepts a pattern of names inside the folder"
        yield from super().errors()


ACCEPTED = summary(RecordsData)


@register("data", "records", RecordsData, endings=(".npy",))
def read(options: RecordsData) -> EpisodeStream:
    """Reads the records of all pairs of files.

    Raises DataError if there is no folder, or if inputs and outputs do not match by name.
    """
    pairs = _pairs(options)
    files = tuple(file for pair in pairs for file in pair)
    return EpisodeStream(str(options.path), _episodes(options, pairs), files=files)


def _pairs(options: RecordsData) -> list[Pair]:
    folder = existing_path(options)
    if not folder.is_dir():
        raise DataError(f"data.path={options.path}: is a file; accepted: {ACCEPTED}")
    inputs, outputs = (
        sorted(folder / name for name in glob.glob(names, root_dir=folder, recursive=True))
        for names in (options.inputs, options.outputs)
    )
    lines = [
        f"data.inputs={options.inputs}: {', '.join(f.name for f in inputs) or 'none'}",
        f"data.outputs={options.outputs}: {', '.join(f.name for f in outputs) or 'none'}",
    ]
    if len(inputs) != len(outputs) or not inputs:
        raise DataError(bullet_list(f"{folder}: accepted: as many inputs as outputs", lines))
    if len(inputs) == 1 and not (_has_wildcard(options.inputs) and _has_wildcard(options.outputs)):
        return [(inputs[0], outputs[0])]  # chosen by name
    u, y = (
        {_key(file.relative_to(folder), pattern): file for file in files}
        for files, pattern in ((inputs, options.inputs), (outputs, options.outputs))
    )
    if u.keys() != y.keys() or len(u) < len(inputs) or len(y) < len(outputs):
        raise DataError(
            bullet_list(
                f"{folder}: the names of inputs and outputs do not match; accepted: the same names "
                "but for what is before the * of data.inputs and data.outputs, or one file each",
                lines,
            )
        )
    return [(u[key], y[key]) for key in y]


def _has_wildcard(pattern: str) -> bool:
    return WILDCARD.search(pattern) is not None


def _key(file: Path, pattern: str) -> tuple[str, ...]:
    """What the wildcards of a pattern stand for in a name."""
    parts = WILDCARD.split(pattern)
    literal, wild = map(re.escape, parts[::2]), [*parts[1::2], ""]
    regex = "".join(f"{text}{_regex(part)}" for text, part in zip(literal, wild, strict=True))
    match = re.fullmatch(regex, file.as_posix())
    return tuple(group or "" for group in match.groups()) if match else (file.as_posix(),)


def _regex(wildcard: str) -> str:
    if wildcard.startswith("["):
        return f"({wildcard.replace('[!', '[^', 1)})"
    return STANDS_FOR.get(wildcard, "([^/]*)") if wildcard else ""


def _episodes(options: RecordsData, pairs: Sequence[Pair]) -> Iterator[Episode | UnreadableEpisode]:
    for inputs, outputs in pairs:
        try:
            with reading(ACCEPTED, inputs.name):
                u = _records(inputs)
            with reading(ACCEPTED):
                y = _records(outputs)
            if u.shape[::2] != y.shape[::2]:
                raise DataError(
                    f"has {y.shape[2]} records of {y.shape[0]} samples, its inputs {inputs.name} "
                    f"have {u.shape[2]} of {u.shape[0]}; accepted: the same numbers in both"
                )
        except DataError as error:
            yield UnreadableEpisode(str(outputs), str(error))
            continue
        for index in range(y.shape[2]):
            yield Episode(
                observations={"observation": y[..., index]},
                actions=u[1:, :, index] if options.feedthrough else u[:-1, :, index],
                rewards=None,
                terminated=False,
                name=f"{outputs.name} record {index}" if y.shape[2] > 1 else outputs.name,
            )


def _records(file: Path) -> np.ndarray:
    """(samples, channels, records). Raises DataError, without the file's name."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)  # compares the header with the size
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"is not an array of numbers; accepted: {ACCEPTED}")
    if not 1 <= array.ndim <= 4:
        raise DataError(f"has shape {array.shape}; accepted: {SHAPES}")
    samples, channels, records, periods = array.shape + (1,) * (4 - array.ndim)
    array = np.load(file, allow_pickle=False).reshape(samples, channels, records, periods)
    array = (
        array if array.dtype.kind == "f" else array.astype(np.float64)
    )  # integers are no classes
    array.flags.writeable = False  # so that a single record need not be copied
    return array.transpose(3, 0, 1, 2).reshape(periods * samples, channels, records)
