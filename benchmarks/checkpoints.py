"""The cost of a checkpoint: seconds that training waits, seconds in the background, seconds of
verifying and restoring, and bytes that an evaluation reads.

    python benchmarks/checkpoints.py [MiB of parameters] [folder]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from worldmodel.runs import integrity
from worldmodel.runs.checkpoints import Checkpoints, digest

ARRAYS = 64


def state(mebibytes: int, seed: int) -> dict[str, Any]:
    """Random parameters, and the two moments of an optimizer."""
    shape = (ARRAYS, mebibytes * 2**18 // ARRAYS)
    first, second, third = jax.random.normal(jax.random.key(seed), (3, *shape), jnp.float32)
    return {"params": list(first), "optimizer": [list(second), list(third)]}


def timed(what: str, action: Callable[[], Any], mebibytes: float) -> Any:
    began = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - began
    print(f"{what:44s} {seconds * 1000:9.1f} ms {mebibytes / seconds / 1024:7.2f} GiB/s")
    return result


def main(mebibytes: int, folder: Path) -> None:
    whole = 3 * mebibytes
    print(f"{whole} MiB of state on {jax.devices()[0].device_kind}, in {folder}")
    checkpoints = Checkpoints(folder / "stage", max_to_keep=1)
    for step in (1, 2):  # the first one also warms up
        made = jax.block_until_ready(state(mebibytes, step))
        save = partial(checkpoints.save, step, made, {})
        timed(f"save {step}: training stands still", save, whole)
        timed(f"save {step}: in the background", checkpoints.wait, whole)
    checkpoint = folder / "stage" / "2"
    timed(
        "of which: sums of the files",
        lambda: integrity.write_checksums(checkpoint / "state"),
        whole,
    )
    timed("verify", lambda: integrity.verify(checkpoint), whole)
    timed("SHA-256 of the state, for comparison", lambda: digest(made), whole)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), made)
    timed("restore all", lambda: jax.block_until_ready(checkpoints.restore(2, like)[0]), whole)
    part = {"params": like["params"]}

    def read_part() -> Any:
        return jax.block_until_ready(checkpoints.restore(2, part, partial=True)[0])

    timed("restore parameters alone", read_part, mebibytes)
    checkpoints.close()


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as path:
        main(size, Path(path))
