"""Hostile TFDS datasets."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_sources import CODE, TEN_TB, Kinds, add, edited

from worldmodel.data.readers.tfds import TFDSData

SAMPLE = Path(__file__).parent / "data" / "samples" / "tfrecord"
TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"


def tfds(folder: Path, change: Callable[[Path], Any], **options: Any) -> TFDSData:
    """A dataset that TFDS wrote, changed."""
    place = folder / "set"
    shutil.copytree(SAMPLE, place)
    (folder / "evil.py").write_text(CODE)
    (place / "evil.py").write_text(CODE)
    change(place)
    return TFDSData(path=str(place), **options)


def replaced(file: str, old: str, new: str) -> Callable[[Path], Any]:
    def replace(place: Path) -> None:
        text = (place / file).read_text()
        assert old in text
        (place / file).write_text(text.replace(old, new))

    return replace


def steps(content: dict) -> dict:
    nested = content["featuresDict"]["features"]["steps"]["sequence"]["feature"]
    return nested["featuresDict"]["features"]


def shard(content: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def change(place: Path) -> None:
        file = sorted(place.glob("*.tfrecord*"))[0]
        file.write_bytes(content(file.read_bytes()))

    return change


def _outside(place: Path) -> None:
    for file in place.glob("*.tfrecord*"):
        shutil.move(file, place.parent / file.name)
    replaced("dataset_info.json", "{DATASET}-", "../{DATASET}-")(place)


def _native(change: Callable[[Path], Any]) -> Callable[[Path], TFDSData]:
    """A dataset as this package writes it, changed."""

    def write(folder: Path) -> TFDSData:
        from worldmodel.data import Episode, stack_episodes
        from worldmodel.data.rlds_writer import write_rlds

        images = np.zeros((5, 64, 64, 3), np.uint8)
        episode = Episode({"image": images}, np.zeros((4, 1)), np.ones(4), terminated=False)
        write_rlds(stack_episodes([episode] * 2, "test"), folder / "set", "test")
        change(folder / "set")
        return TFDSData(path=str(folder / "set"))

    return write


def _records(change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    def edit(place: Path) -> None:
        file = next(place.glob("*.array_record*"))
        file.write_bytes(change(file.read_bytes()))

    return edit


def _action(**changes: Any) -> Callable[[Path], Any]:
    return edited("metadata.json", lambda m: m["worldmodel"]["action"].update(changes))


def _shards(value: Any) -> Callable[[Path], Any]:
    return edited("dataset_info.json", lambda i: i["splits"][0].update(shardLengths=value))


INFO, FEATURES, META = "dataset_info.json", "features.json", "metadata.json"
FOLDERS: Kinds = {
    "a class of the folder": (
        lambda f: tfds(f, replaced(FEATURES, TENSOR, "evil.Feature")),
        "evil.Feature",
    ),
    "a class of the folder, old layout": (
        lambda f: tfds(f, edited(FEATURES, lambda j: {"type": "evil.Feature", "content": {}})),
        "evil",
    ),
    "a class in another spelling": (
        lambda f: tfds(
            f,
            edited(
                FEATURES,
                lambda j: steps(j)["action"].update(
                    python_class_name="evil.Feature", pythonClassName=TENSOR
                ),
            ),
        ),
        "evil",
    ),
    "a class of the root": (
        lambda f: tfds(f, edited(FEATURES, lambda j: j.update(pythonClassName="evil.Feature"))),
        "evil.Feature",
    ),
    "another module of TFDS": (
        lambda f: tfds(
            f, replaced(FEATURES, TENSOR, "tensorflow_datasets.scripts.cli.main.Tensor")
        ),
        "cli.main.Tensor",
    ),
    "features that are a list": (
        lambda f: tfds(f, edited(FEATURES, lambda j: [1])),
        "TFDS cannot open it",
    ),
    "features that are no text": (
        lambda f: tfds(f, lambda p: (p / FEATURES).write_bytes(b"\xff\xfe\x00")),
        "cannot be read",
    ),
    "features of 10,000 levels": (
        lambda f: tfds(f, lambda p: (p / FEATURES).write_text('{"a":' * 10_000)),
        "cannot be read",
    ),
    "features without shape": (
        lambda f: tfds(f, edited(FEATURES, lambda j: steps(j)["action"].pop("tensor"))),
        "set",
    ),
    "an unknown type": (lambda f: tfds(f, replaced(FEATURES, '"float32"', '"float4711"')), "set"),
    "a tensor of 10 TB": (
        lambda f: tfds(
            f,
            edited(
                FEATURES,
                lambda j: steps(j)["action"]["tensor"]["shape"].update(dimensions=[str(TEN_TB)]),
            ),
        ),
        "set",
    ),
    "a negative shape": (
        lambda f: tfds(
            f,
            edited(
                FEATURES, lambda j: steps(j)["action"]["tensor"]["shape"].update(dimensions=["-5"])
            ),
        ),
        "set",
    ),
    "other names of fields": (
        lambda f: tfds(
            f, edited(FEATURES, lambda j: steps(j).update(action2=steps(j).pop("action")))
        ),
        "steps have no action",
    ),
    "no description": (lambda f: tfds(f, lambda p: (p / INFO).write_text("")), "cannot be read"),
    "a description that is a list": (
        lambda f: tfds(f, edited(INFO, lambda j: [])),
        "cannot be read",
    ),
    "a description of 10,000 levels": (
        lambda f: tfds(f, lambda p: (p / INFO).write_text("[" * 10_000)),
        "cannot be read",
    ),
    "no splits": (lambda f: tfds(f, edited(INFO, lambda j: j.update(splits=[]))), "split"),
    "10^12 records": (lambda f: tfds(f, _shards(["1000000000000", "2"])), "1,000,000,000,002"),
    "10^18 records": (lambda f: tfds(f, _shards(["1000000000000000000"])), "set"),
    "a negative count": (lambda f: tfds(f, _shards(["-5", "2"])), "set"),
    "a count that is text": (lambda f: tfds(f, _shards(["many"])), "cannot be read"),
    "100,000 files": (lambda f: tfds(f, _shards(["1"] * 10**5)), "claims 100,000 files"),
    "files elsewhere": (lambda f: tfds(f, _outside), "set"),
    "files at a root": (
        lambda f: tfds(f, replaced(INFO, "{DATASET}-", "/etc/passwd{DATASET}-")),
        "set",
    ),
    "an unknown template": (lambda f: tfds(f, replaced(INFO, "{DATASET}", "{X.__class__}")), "set"),
    "a name that climbs": (
        lambda f: tfds(f, edited(INFO, lambda j: j.update(name="../../x"))),
        "set",
    ),
    "a module": (lambda f: tfds(f, edited(INFO, lambda j: j.update(moduleName="evil"))), ""),
    "an odd version": (lambda f: tfds(f, edited(INFO, lambda j: j.update(version="x.y"))), "set"),
    "a split that is code": (
        lambda f: tfds(f, lambda p: None, split="__import__('evil')"),
        "split",
    ),
    "a split of all bytes": (lambda f: tfds(f, lambda p: None, split="train[:\x00%]"), "split"),
    "a record of 2^63 bytes": (
        lambda f: tfds(f, shard(lambda b: struct.pack("<Q", 2**63) + b[8:])),
        "record 0",
    ),
    "a record of 8 GB": (
        lambda f: tfds(f, shard(lambda b: struct.pack("<Q", 2**33) + b[8:])),
        "record 0",
    ),
    "records of zeros": (
        lambda f: tfds(f, shard(lambda b: bytes(len(b)))),
        "missing from the record",
    ),
    "a record of random bytes": (
        lambda f: tfds(f, shard(lambda b: b[:12] + np.random.default_rng(0).bytes(len(b) - 12))),
        "record 0",
    ),
    "metadata that are a list": (_native(edited(META, lambda j: [1, 2])), "metadata.json"),
    "metadata of 10,000 levels": (
        _native(lambda p: (p / META).write_text("[" * 10_000)),
        "metadata.json",
    ),
    "bounds that are text": (_native(_action(low=["a"], high=["b"])), "set"),
    "bounds without end": (_native(_action(low=[float("-inf")], high=[float("nan")])), "finite"),
    "10^12 dimensions": (_native(_action(size=10**12)), "action"),
    "10^9 classes": (_native(_action(discrete=True, size=10**9)), "action"),
    "no numbers of dimensions": (
        _native(edited(META, lambda j: j.update(worldmodel={"action": 5}))),
        "metadata.json",
    ),
    "array records of zeros": (_native(_records(lambda b: bytes(len(b)))), "record 0"),
    "array records of random bytes": (
        _native(_records(lambda b: np.random.default_rng(0).bytes(len(b)))),
        "record 0",
    ),
    "array records cut in half": (
        _native(_records(lambda b: b[: len(b) // 2])),
        "missing from the record",
    ),
    "no array records": (_native(_records(lambda b: b"")), "record 0"),
    "2^40 array records": (_native(_shards([str(2**40)])), "set"),
}
add("tfds", FOLDERS)
