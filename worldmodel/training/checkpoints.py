"""Checkpoints of one stage: the full state, written atomically in the background by Orbax.

A state is stored as flat named arrays, with a small JSON beside it. No pickles, no import paths.
Order of restoring: the newest checkpoint of this run that is whole; otherwise the stage starts from
its seed.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from worldmodel.errors import CheckpointError

VERSION = 1


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, `params.actor.hidden...`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def digest(tree: Any) -> str:
    """SHA-256 of all arrays of a pytree with their names, types and shapes."""
    total = hashlib.sha256()
    for name, leaf in sorted(named(tree).items()):
        array = np.asarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints in `folder`/STEP/, of which the newest `keep` stay."""

    def __init__(self, folder: Path, keep: int = 2, read_only: bool = False):
        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every step of its work
        self.folder = folder.absolute()
        if read_only and not self.folder.is_dir():
            raise CheckpointError(f"{folder} holds no checkpoints")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep, create=not read_only, read_only=read_only
        )
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Copies the state to the host and writes it in the background. Saves a step only once."""
        if step in self.manager.all_steps():
            return
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(named(state)),
            meta=ocp.args.JsonSave({"version": VERSION, **meta}),
        )
        self.manager.save(step, args=arguments, force=True)

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state of `step` in the structure and on the devices of `like` (arrays or
        ShapeDtypeStructs), and meta.

        Raises CheckpointError if the checkpoint holds another model.
        """
        if step not in self.steps():
            raise CheckpointError(
                f"{self.folder} has no checkpoint {step}; there are {self.steps() or 'none'}"
            )
        target = named(like)
        meta = self._meta(step)
        self._check(step, target)
        restored = self.manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        )["state"]
        structure = jax.tree.structure(like)
        return jax.tree.unflatten(structure, [restored[name] for name in target]), meta

    def _meta(self, step: int) -> dict[str, Any]:
        try:
            arguments = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self.manager.restore(step, args=arguments)["meta"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self.folder / str(step)} is damaged: {error}") from None
        if meta["version"] > VERSION:
            raise CheckpointError(
                f"{self.folder / str(step)} was written by a newer version of this project "
                f"(format {meta['version']}, this one reads up to {VERSION})"
            )
        return meta

    def _check(self, step: int, target: dict[str, Any]) -> None:
        stored = self.manager.item_metadata(step)["state"]
        stored = dict(getattr(stored, "tree", stored))
        faults = [f"{name}: only in the checkpoint" for name in stored.keys() - target.keys()]
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
