"""`training.dry_run=true`: what a run would need, before anything is trained or written.

Every stage is compiled as it would run, from shapes alone: no state is allocated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import jax

from worldmodel.nn.learner import TrainState
from worldmodel.system.storage import format_bytes
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import Stage, make_dispatch, make_rollout_update, stage_keys


def dry_run(stages: Iterable[Stage], mesh: jax.sharding.Mesh, verbose: bool = True) -> int:
    """Prints steps, parameters, memory, operations and compile time of every stage; returns 0. Of
    several processes all compile, and the one that is `verbose` prints.

    The compiled programs go to the compilation cache, where the run itself finds them.
    """
    if verbose:
        print(f"devices      {mesh.size} x {jax.devices()[0].device_kind}")
    for stage in stages:
        try:
            for label, value in _describe(stage, mesh).items() if verbose else ():
                print(f"{stage.plan.name:12s} {label:12s} {value}", flush=True)
        finally:
            stage.close()
    return 0


def _describe(stage: Stage, mesh: jax.sharding.Mesh) -> dict[str, str]:
    """label -> what is printed of a stage."""
    plan, batches, updates = stage.plan, stage.batches, stage.updates_per_dispatch
    keys = stage_keys(plan.seed, plan.name)
    state = jax.eval_shape(stage.learner.init, keys.init)
    shardings = meshes.state_shardings(state, mesh)
    state = meshes.with_shardings(state, shardings)
    arrays = _replicated(jax.eval_shape(lambda x: x, batches.arrays()), mesh)

    began = time.perf_counter()
    feed = meshes.put_feed(batches.feed(0, updates), batches.axis, mesh)
    dispatch = make_dispatch(stage.learner, batches, mesh, updates, shardings)
    compiled = dispatch.lower(state, arrays, feed, keys.steps).compile()
    if rollouts := stage.rollout_update:
        feed = meshes.put_feed(rollouts.batches.feed(0, 1), rollouts.batches.axis, mesh)
        refill = make_rollout_update(rollouts, mesh, shardings)
        refill.lower(state, arrays, feed, keys.init).compile()
    seconds = time.perf_counter() - began

    windows = f"{plan.batch_size * plan.num_seeds} windows of {plan.window} timesteps"
    return {
        "steps": f"{plan.steps}, {updates} per call to the device",
        "batch": f"{windows}; {batches.count} windows per epoch",
        "parameters": _parameters(state),
        "state": f"{_size(state)}, {_size(state.opt_state)} of it the optimizer",
        "data": _size(arrays) if arrays else "streamed",
        "memory": _memory(compiled),
        "operations": _operations(compiled),
        "compiled in": f"{seconds:.1f} s",
    }


def _replicated(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    """Shapes of arrays that are whole on every device."""
    where = meshes.replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes)


def _parameters(state: TrainState) -> str:
    """How many are trained in all, and in each part of each module."""
    parts: dict[str, int] = {}
    for name, module in state.params.items():
        for part, params in module.items() if isinstance(module, dict) else ():
            parts[f"{name}.{part}"] = sum(x.size for x in jax.tree.leaves(params))
    listed = ", ".join(f"{part} {count:,}" for part, count in parts.items() if count)
    return f"{sum(parts.values()):,}: {listed}"


def _memory(compiled: jax.stages.Compiled) -> str:
    """What one device needs while the program runs, as the compiler counts it."""
    memory = compiled.memory_analysis()
    if memory is None:
        return "unavailable"
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = arguments + temporaries + results
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    of = f" of {format_bytes(limit)}" if limit else ""
    return f"{format_bytes(total)}{of} on each device, {format_bytes(temporaries)} of it temporary"


def _operations(compiled: jax.stages.Compiled) -> str:
    """Floating-point operations, as the compiler counts them: the body of a loop counts once."""
    costs = compiled.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    flops = (costs or {}).get("flops", 0.0)
    return f"{flops:.3g} per update, loops over time counted once" if flops > 0 else "unavailable"


def _size(tree: Any) -> str:
    return format_bytes(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))
