"""Records of a system's inputs and outputs in npy files, as system identification has them.

A folder holds files of inputs and of outputs, in pairs by the order of their names: what a record
was driven with, and what it answered. An array is (samples,), (samples, channels) or (samples,
channels, realisations), each of the last a record of its own, or (samples, channels, realisations,
periods): periods of a realisation were recorded one after the other, and are one record again.

A record of T+1 samples gives T transitions: the last input is padding. With `data.feedthrough` an
input already acts on the output of its own sample; it is then the action of the sample before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.config import DataOptions, feedthrough, option
from worldmodel.config.registry import register
from worldmodel.data.episodes import Episode, EpisodeStream, UnreadableEpisode
from worldmodel.data.readers import existing_path
from worldmodel.errors import DataError, bullet_list, first_line

ACCEPTED = "a folder of inputs and outputs, u_*.npy and y_*.npy"
SHAPES = "(samples,), then channels, realisations and periods, as far as there are any"

Pair = tuple[Path, Path]


@dataclass
class RecordsData(DataOptions):
    """Inputs and outputs of a system in npy files: a folder of u_*.npy and y_*.npy."""

    name: str = option("records", "data source")
    inputs: str = option("u_*.npy", "names of the files of inputs, which become actions")
    outputs: str = option(
        "y_*.npy", "those of the files of outputs, in the order of the inputs', which are observed"
    )
    feedthrough: bool = feedthrough()

    def errors(self) -> Iterator[str]:
        if not self.path:
            yield "data.path needs a folder of u_*.npy and y_*.npy, for data=records"
        yield from super().errors()


@register("data", "records", RecordsData, source="path", endings=(".npy",))
def read(options: RecordsData) -> EpisodeStream:
    """The records of all pairs of files, read pair by pair. One that cannot be read is UnreadableEpisode.

    Raises DataError if there is no folder, or not as many files of inputs as of outputs.
    """
    pairs = _pairs(options)
    files = tuple(file for pair in pairs for file in pair)
    return EpisodeStream(str(options.path), _episodes(options, pairs), files=files)


def _pairs(options: RecordsData) -> list[Pair]:
    folder = existing_path(options, ACCEPTED)
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; data={options.name} reads {ACCEPTED}")
    found = [sorted(folder.glob(names)) for names in (options.inputs, options.outputs)]
    if len(found[0]) != len(found[1]) or not found[0]:
        lines = [
            f"data.{key}={names}: {', '.join(file.name for file in files) or 'none'}"
            for key, names, files in (
                ("inputs", options.inputs, found[0]),
                ("outputs", options.outputs, found[1]),
            )
        ]
        raise DataError(bullet_list(f"{folder}: accepted are as many inputs as outputs", lines))
    return list(zip(*found, strict=True))


def _episodes(options: RecordsData, pairs: Sequence[Pair]) -> Iterator[Episode | UnreadableEpisode]:
    for inputs, outputs in pairs:
        try:
            u, y = _records(inputs), _records(outputs)
            if u.shape[::2] != y.shape[::2]:
                raise DataError(
                    f"has {y.shape[2]} records of {y.shape[0]} samples, its inputs "
                    f"{inputs.name} {u.shape[2]} of {u.shape[0]}; accepted: the same of both"
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
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot be read ({first_line(error)}); accepted: {ACCEPTED}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"holds no array of numbers; accepted: {ACCEPTED}")
    if not 1 <= array.ndim <= 4:
        raise DataError(f"has shape {array.shape}; accepted: {SHAPES}")
    samples, channels, records, periods = array.shape + (1,) * (4 - array.ndim)
    array = array.reshape(samples, channels, records, periods)
    return array.transpose(3, 0, 1, 2).reshape(periods * samples, channels, records)
