"""`training.dry_run=true`: what a run would need, told before anything is trained or written.

Every stage is compiled as it would run, from shapes alone: no state is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from worldmodel.config import Config
from worldmodel.nn.learner import TrainState
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import (
    Stage,
    make_dispatch,
    make_rollout_update,
    stage_keys,
    steps_per_dispatch,
)


def dry_run(config: Config, stages: Iterable[Stage], verbose: bool = True) -> int:
    """Prints steps, parameters, memory, operations and compile time of every stage; returns 0. Of
    several processes all compile, and one `verbose`.

    The compiled programs go to the cache of programs: the run itself finds them there.
    """
    mesh = meshes.all_devices(config.training.fsdp_shards)
    if verbose:
        print(f"devices      {mesh.size} x {jax.devices()[0].device_kind}")
    for stage in stages:
        try:
            facts = _facts(config, stage, mesh)
            for label, value in facts.items() if verbose else ():
                print(f"{stage.name:12s} {label:12s} {value}", flush=True)
        finally:
            stage.close()
    return 0


def _facts(config: Config, stage: Stage, mesh: jax.sharding.Mesh) -> dict[str, str]:
    """What is told of a stage, by what it is."""
    batches, keys = stage.batches, stage_keys(config.seed, stage.name)
    state = jax.eval_shape(stage.learner.init, keys.init)
    shardings = meshes.state_shardings(state, mesh)
    state = meshes.with_shardings(state, shardings)
    arrays = _placed(jax.eval_shape(lambda x: x, batches.arrays()), mesh)
    steps = stage.options.steps
    updates = steps_per_dispatch(
        config.training, steps, batches.max_updates_per_call, stage.interval
    )

    began = time.perf_counter()
    feed = meshes.put_feed(batches.feed(0, updates), batches.axis, mesh)
    dispatch = make_dispatch(stage.learner, batches, mesh, updates, shardings)
    compiled = dispatch.lower(state, arrays, feed, keys.steps).compile()
    if refresh := stage.refresh:
        feed = meshes.put_feed(refresh.batches.feed(0, 1), refresh.batches.axis, mesh)
        make_rollout_update(refresh, mesh, shardings).lower(
            state, arrays, feed, keys.init
        ).compile()
    seconds = time.perf_counter() - began

    windows, rows = stage.options.batch_size * config.training.num_seeds, stage.options.window
    data = _size(_nbytes(arrays)) if arrays else "streamed"
    return {
        "steps": f"{steps}, {updates} a call to the device",
        "batch": f"{windows} windows of {rows} rows; {batches.count} windows in an epoch",
        "parameters": _parameters(state),
        "state": f"{_size(_nbytes(state))}, {_size(_nbytes(state.opt_state))} the optimiser's",
        "data": data,
        "memory": _memory(compiled),
        "operations": _operations(compiled),
        "compiled in": f"{seconds:.1f} s",
    }


def _placed(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes of arrays that lie whole on every device."""
    where = meshes.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)


def _parameters(state: TrainState) -> str:
    """How many are trained, and in which modules: those of a whole model by its parts."""
    parts: dict[str, int] = {}
    for name, module in state.params.items():
        pieces = module.items() if isinstance(module, dict) else ()
        for piece, params in pieces:
            parts[f"{name}.{piece}"] = sum(x.size for x in jax.tree.leaves(params))
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items() if count)
    return f"{sum(parts.values()):,}: {listed}"


def _memory(compiled: jax.stages.Compiled) -> str:
    """What one device needs while the program runs, as the compiler counts it."""
    memory = compiled.memory_analysis()
    if memory is None:
        return "not told"
    arguments, work = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = arguments + work + results
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    of = f" of {_size(limit)}" if limit else ""
    return f"{_size(total)}{of} on each device, {_size(work)} of it while it works"


def _operations(compiled: jax.stages.Compiled) -> str:
    """Floating-point operations, as the compiler counts them: what a loop repeats counts once."""
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    flops = (costs or {}).get("flops", 0.0)
    return f"{flops:.3g} an update, loops over time counted once" if flops > 0 else "not told"


def _nbytes(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("KiB", "MiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GiB"
