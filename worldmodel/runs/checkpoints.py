"""Checkpoints of one stage: the full state, written atomically in the background by Orbax.

A state is stored as flat named arrays, with metadata in a JSON file. No pickles, no import paths.
A stage resumes from its newest valid checkpoint (integrity.py), and starts from its seed if it has
none. If it has checkpoints and all of them are damaged, the run is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import logging
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from worldmodel.errors import CheckpointError, first_line
from worldmodel.runs import integrity
from worldmodel.runs.best import BestMetric, KeepLatestAndBest
from worldmodel.system.storage import raise_storage_errors


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, `params.actor.hidden...`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def digest(tree: Any) -> str:
    """SHA-256 of all arrays of a pytree with their names, types and shapes."""
    total = hashlib.sha256()
    for name, leaf in sorted(named_leaves(tree).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


class _Handler(ocp.PyTreeCheckpointHandler):
    """Also writes checksums of the files, before the checkpoint appears under its name."""

    @classmethod
    def typestr(cls) -> str:
        return "named arrays"  # Orbax writes it to the checkpoint: no import path

    def finalize(self, directory: Any) -> None:
        super().finalize(directory)
        if jax.process_index() == 0:
            integrity.write_checksums(Path(directory))


@ocp.args.register_with_handler(_Handler, for_save=True)
@dataclasses.dataclass
class _Save(ocp.args.PyTreeSave):
    pass


@ocp.args.register_with_handler(_Handler, for_restore=True)
@dataclasses.dataclass
class _Restore(ocp.args.PyTreeRestore):
    pass


@functools.cache
def _silence_follow_up_errors() -> None:
    """When one array cannot be written, all others in progress print a traceback, since their event
    loop is closed. The failure itself is raised, so those are suppressed.
    """
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _single_process() -> ocp.options.MultiprocessingOptions:
    """For reading, which a process does alone; all of them take part in writing."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


class Checkpoints:
    """The checkpoints in `folder`/STEP/: keeps the newest `max_to_keep`, and the `best`.

    Damaged ones are moved to FOLDER.damaged/ first, unless `read_only`. Raises CheckpointError if
    all are damaged.
    """

    def __init__(
        self,
        folder: Path,
        max_to_keep: int = 2,
        best: BestMetric | None = None,
        read_only: bool = False,
    ):
        # Orbax logs every step of its work, and reports failures twice.
        for library in ("absl", "asyncio"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self.folder = folder.absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{folder}: no checkpoints there")
        if not read_only:
            _silence_follow_up_errors()
            self._quarantine_corrupt()
        self.preserved = KeepLatestAndBest(
            max_to_keep, best, best.values(self.folder) if best else {}
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self.preserved,
            create=False,
            read_only=read_only,
            multiprocessing_options=(
                _single_process() if read_only else ocp.options.MultiprocessingOptions()
            ),
            # Where folders cannot be created in the background, its threads wait ten minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        with raise_storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.manager = ocp.CheckpointManager(
                self._open_folder(),
                options=options,
                item_handlers={"state": _Handler(), "meta": ocp.JsonCheckpointHandler()},
            )

    def _open_folder(self) -> Path:
        """The folder by a name that all libraries take as it is, and that stays the same where it
        is moved. Orbax takes brackets for a pattern and `gs:` for a service; TensorStore changes
        backslashes.
        """
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        self._close_folder = weakref.finalize(self, os.close, descriptor)
        path = Path(f"/proc/self/fd/{descriptor}")
        if path.exists():
            return path
        if set(str(self.folder)) & set("*?[]\\"):
            raise CheckpointError(f"{self.folder}: accepted here: paths without * ? [ ] and \\")
        return self.folder

    def _quarantine_corrupt(self) -> None:
        """All processes verify, and fail alike; the first one moves, once all have verified."""
        valid, damaged = integrity.latest_valid(self.folder)
        self._barrier("verified")
        if jax.process_index() == 0:
            integrity.quarantine_corrupt(self.folder, valid, damaged)
            integrity.remove_unfinished(self.folder)
        self._barrier("cleaned")

    def _barrier(self, name: str) -> None:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self.folder} {name}")

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copies the state to the host and writes it in the background, unless the step is saved
        already.

        meta: metadata; its `metrics` are the values that the best is chosen by

        Raises StorageError if this write fails, or one in the background has failed.
        """
        if step in self.manager.all_steps():
            return
        self.preserved.add(step, meta.get("metrics", {}))
        arguments = ocp.args.Composite(
            state=_Save(named_leaves(state)), meta=ocp.args.JsonSave(integrity.with_checksum(meta))
        )
        with self._writing():
            self.manager.save(step, args=arguments, force=True)

    def delete(self, step: int) -> None:
        self.manager.delete(step)

    def wait(self) -> None:
        """Returns when everything is on disk. Raises StorageError if a write has failed."""
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        with self._writing():
            self.manager.close()
        self._close_folder()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        steps = integrity.checkpoint_steps(self.folder)
        last = f"the last checkpoint is {steps[-1]}" if steps else "there is no checkpoint yet"
        hint = f"Training stopped; {last}. Run the same command to resume from there."
        with raise_storage_errors(self.folder, hint):
            try:
                yield
            except ValueError as error:  # of Orbax, where what it has just written is gone
                raise OSError(errno.ENOENT, first_line(error)) from error

    def restore(self, step: int, like: Any, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """Returns the state of `step` and its metadata.

        like: a state of arrays or ShapeDtypeStructs, with the structure and shardings to restore
        partial: whether arrays that `like` lacks are skipped, and not an error

        Raises CheckpointError if the checkpoint is damaged or holds another model.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder} has no checkpoint {step}; existing: {self.steps() or 'none'}"
            )
        target = named_leaves(like)
        try:
            meta = integrity.read_metadata(self.folder / str(step))
            self._check_shapes(step, target, partial)
            arguments = _Restore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=partial,
            )
            restored = self.manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        except (OSError, ValueError, KeyError, TypeError, integrity.CorruptCheckpoint) as error:
            path = self.folder / str(step)
            raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
        structure = jax.tree.structure(like)
        return jax.tree.unflatten(structure, [restored[name] for name in target]), meta

    def _check_shapes(self, step: int, target: dict[str, Any], partial: bool) -> None:
        stored = self.manager.item_metadata(step)["state"]
        stored = dict(getattr(stored, "tree", stored))
        extra = set() if partial else stored.keys() - target.keys()
        errors = [f"{name}: only in the checkpoint" for name in extra]
        errors += [f"{name}: missing in the checkpoint" for name in target.keys() - stored.keys()]
        for name in stored.keys() & target.keys():
            there, here = tuple(stored[name].shape), tuple(target[name].shape)
            if there != here:
                errors.append(f"{name}: {there} in the checkpoint, {here} here")
        if errors:
            listed = "\n  ".join(sorted(errors)[:5])
            rest = f"\n  ... and {len(errors) - 5} more" if len(errors) > 5 else ""
            raise CheckpointError(
                f"{self.folder / str(step)} is a checkpoint of another model:\n  {listed}{rest}"
            )
