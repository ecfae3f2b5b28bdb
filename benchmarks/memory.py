"""Memory of an update of a world model besides its parameters, under options that reduce it.

    python benchmarks/memory.py [preset] [batch] [steps]

For an RSSM on Pendulum's vectors, with training.remat, gradient_accumulation_steps and precision:
what is kept for the gradient, as JAX counts it, and the temporaries of a compiled update on one
device, as XLA counts them. Nothing is run, so the numbers do not depend on the machine's load.

One CPU device computes time steps one by one. XLA_FLAGS=--xla_force_host_platform_device_count=2
shows the program for several devices, but a CPU's temporaries do not show what remat saves.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from worldmodel.config import Config, NoPolicy, TrainingOptions
from worldmodel.data.loader import make_loader
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.data.windows import Window
from worldmodel.models.rssm import RSSMOptions
from worldmodel.nn.learner import Params, TrainState
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import make_dispatch, stage_keys
from worldmodel.training.plan import plan_stages
from worldmodel.training.world_model import WorldModelLearner, remat_loss

WAYS = {
    "plain": {},
    "remat": {"remat": True},
    "accumulate=4": {"gradient_accumulation_steps": 4},
    "remat, accumulate=4": {"remat": True, "gradient_accumulation_steps": 4},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, remat": {"precision": "bfloat16", "remat": True},
}


def kept_bytes(learner: WorldModelLearner, state: TrainState, batch: Window) -> int:
    """Bytes kept between the loss of a microbatch and its gradient."""
    loss = learner.loss(state.frozen)
    loss = remat_loss(loss) if learner.remat else loss
    piece = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] // learner.microbatches, *x.shape[1:]), x.dtype),
        batch,
    )

    def way_back(params: Params, piece: Window, key: jax.Array) -> Any:
        return jax.vjp(lambda params: loss(params, piece, key), params, has_aux=True)[1]

    arrays = jax.tree.leaves(jax.eval_shape(way_back, state.params, piece, jax.random.key(0)))
    return sum(x.size * x.dtype.itemsize for x in arrays)


def main(preset: str = "1m", batch: str = "16", rows: str = "64") -> None:
    data = GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=4)
    if int(batch) % (pieces := 4 * jax.device_count()):
        sys.exit(f"batch {batch}: accepted are multiples of {pieces}, for 4 pieces on each device")
    logs = collect(data)
    batches = make_loader(logs, int(batch), int(rows), seed=0)
    mesh, (init, key) = meshes.all_devices(), stage_keys(0, "world_model")
    arrays = meshes.put_feed(batches.arrays(), None, mesh)
    feed = meshes.put_feed(batches.feed(0, 1), batches.axis, mesh)
    config = Config("memory", data=data, model=RSSMOptions(preset=preset), policy=NoPolicy())
    devices = f"{mesh.size} x {jax.devices()[0].device_kind}"
    print(f"rssm {preset}, {batch} windows of {rows} rows, {devices}")
    print("| way | kept for the gradient | temporaries |\n|---|---:|---:|")
    for name, options in WAYS.items():
        training = TrainingOptions(**options)
        training.world_model.steps = 1000
        stages = plan_stages(replace(config, training=training), logs.spec())
        learner = stages["world_model"].build_learner()
        state = jax.eval_shape(learner.init, init)
        kept = kept_bytes(
            learner, state, jax.eval_shape(batches.batch, arrays, feed, jnp.uint32(0))
        )
        state = meshes.with_shardings(state, meshes.state_shardings(state, mesh))
        program = make_dispatch(learner, batches, mesh, 1).lower(state, arrays, feed, key).compile()
        used = program.memory_analysis().temp_size_in_bytes / 2**20
        print(f"| {name} | {kept / 2**20:.1f} MiB | {used:.1f} MiB |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
