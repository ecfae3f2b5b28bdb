"""Checkpoints of one stage: the full state, written atomically in the background by Orbax.

A state is stored as flat named arrays, with a small JSON beside it. No pickles, no import paths.
Order of restoring: the newest checkpoint of this run that is whole (integrity.py); from its seed if
the stage has none. Where there are checkpoints and all are damaged, the run is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from worldmodel.errors import CheckpointError, first_line
from worldmodel.system.storage import raise_storage_errors
from worldmodel.runs import integrity
from worldmodel.runs.best import BestMetric, KeepLatestAndBest


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
    """Also notes the sums of the files, before they appear under their name."""

    @classmethod
    def typestr(cls) -> str:
        return "named arrays"  # Orbax notes it in the checkpoint: no import path

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
def _tell_failures_once() -> None:
    """When one array cannot be written, all others under way print a traceback, since they find
    their event loop closed; the failure itself is raised, so those are left out.
    """
    earlier = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            earlier(unraisable)

    sys.unraisablehook = hook


def _alone() -> ocp.options.MultiprocessingOptions:
    """For what a process reads by itself; writing takes all of them."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )


class Checkpoints:
    """The checkpoints in `folder`/STEP/, of which the newest `max_to_keep` stay, and the `best`.

    Those that are damaged are set aside first, unless `read_only`.
    Raises CheckpointError if all are.
    """

    def __init__(
        self, folder: Path, max_to_keep: int = 2, best: BestMetric | None = None, read_only: bool = False
    ):
        # Orbax tells every step of its work, and failures twice.
        for library in ("absl", "asyncio"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        self.folder = folder.absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{folder} holds no checkpoints")
        if not read_only:
            _tell_failures_once()
            self._quarantine_corrupt()
        self.preserved = KeepLatestAndBest(max_to_keep, best, best.values(self.folder) if best else {})
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self.preserved,
            create=not read_only,
            read_only=read_only,
            multiprocessing_options=_alone() if read_only else ocp.options.MultiprocessingOptions(),
            # Where folders cannot be made in the background, its threads wait ten minutes for them.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        with raise_storage_errors(self.folder):
            self.manager = ocp.CheckpointManager(
                self.folder,
                options=options,
                item_handlers={"state": _Handler(), "meta": ocp.JsonCheckpointHandler()},
            )

    def _quarantine_corrupt(self) -> None:
        """All processes look, and refuse alike; the first one moves, once all have looked."""
        whole, faults = integrity.latest_valid(self.folder)
        self._barrier("looked at")
        if jax.process_index() == 0:
            integrity.quarantine_corrupt(self.folder, whole, faults)
            integrity.remove_unfinished(self.folder)
        self._barrier("in order")

    def _barrier(self, what: str) -> None:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"{self.folder} {what}")

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copies the state to the host and writes it in the background. Saves a step only once.

        `meta["metrics"]` are the values that the best is chosen by.
        Raises StorageError if the disk refuses, this time or since the last.
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
        """Returns when everything is on disk. Raises StorageError if something could not be."""
        with self._writing():
            self.manager.wait_until_finished()

    def close(self) -> None:
        with self._writing():
            self.manager.close()

    def _writing(self) -> Any:
        kept = integrity.checkpoint_steps(self.folder)
        last = f"the last checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        return raise_storage_errors(self.folder, f"Stopped; {last}. The same command goes on from there.")

    def restore(self, step: int, like: Any, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """The state of `step` in the structure and on the devices of `like` (arrays or
        ShapeDtypeStructs), and meta. With `partial`, what `like` lacks is not read.

        Raises CheckpointError if the checkpoint is damaged or holds another model.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder} has no checkpoint {step}; there are {self.steps() or 'none'}"
            )
        target = named_leaves(like)
        try:
            meta = integrity.read_metadata(self.folder / str(step))
            self._check(step, target, partial)
            arguments = _Restore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=partial,
            )
            restored = self.manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        except (OSError, ValueError, KeyError, TypeError, integrity.CorruptCheckpoint) as error:
            where = self.folder / str(step)
            raise CheckpointError(f"{where} is damaged: {first_line(error)}") from None
        structure = jax.tree.structure(like)
        return jax.tree.unflatten(structure, [restored[name] for name in target]), meta

    def _check(self, step: int, target: dict[str, Any], partial: bool) -> None:
        stored = self.manager.item_metadata(step)["state"]
        stored = dict(getattr(stored, "tree", stored))
        extra = set() if partial else stored.keys() - target.keys()
        faults = [f"{name}: only in the checkpoint" for name in extra]
        faults += [f"{name}: missing in the checkpoint" for name in target.keys() - stored.keys()]
        shapes = {name: (stored[name].shape, target[name].shape) for name in stored.keys() & target}
        faults += [
            f"{name}: {tuple(there)} in the checkpoint, {tuple(here)} here"
            for name, (there, here) in shapes.items()
            if tuple(there) != tuple(here)
        ]
        if faults:
            shown = "\n  ".join(sorted(faults)[:5])
            rest = f"\n  ... and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise CheckpointError(
                f"{self.folder / str(step)} is a checkpoint of another model:\n  {shown}{rest}"
            )
