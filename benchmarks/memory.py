"""What an update of a world model needs besides its parameters, in the ways there are to need less.

    python benchmarks/memory.py [preset] [batch] [rows]

For an RSSM on Pendulum's vectors: bytes of temporaries and floating-point operations of one
compiled update, as XLA counts them, plain and with training.remat, accumulate and precision.
Nothing is run, so the numbers hold whatever else the machine does.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import jax

from worldmodel.config import Config, GymnasiumData, NoPolicy, RSSMOptions, TrainingOptions
from worldmodel.data.delivery import deliver
from worldmodel.data.readers.gymnasium import collect
from worldmodel.training.stages import build_learner

WAYS = {
    "plain": {},
    "remat": {"remat": True},
    "accumulate=4": {"accumulate": 4},
    "remat, accumulate=4": {"remat": True, "accumulate": 4},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, remat": {"precision": "bfloat16", "remat": True},
}


def main(preset: str = "1m", batch: str = "16", rows: str = "64") -> None:
    data = GymnasiumData(name="pendulum", environment="Pendulum-v1", episodes=4)
    logs = collect(data)
    batches = deliver(logs, int(batch), int(rows), seed=0)
    shape = jax.eval_shape(lambda: batches.batch(batches.arrays(), batches.feed(0, 1), 0))
    config = Config("memory", data=data, model=RSSMOptions(preset=preset), policy=NoPolicy())
    print(f"rssm {preset}, {batch} windows of {rows} rows, {jax.devices()[0].device_kind}")
    print("| way | temporaries | operations |\n|---|---|---|")
    for name, options in WAYS.items():
        training = TrainingOptions(**options)
        training.world_model.steps = 1000
        learner = build_learner(replace(config, training=training), logs.spec(), "world_model")
        state = jax.eval_shape(learner.init, jax.random.key(0))
        update = jax.jit(learner.update, donate_argnums=0)
        compiled = update.lower(state, shape, jax.random.key(0)).compile()
        used = compiled.memory_analysis().temp_size_in_bytes / 2**20
        print(f"| {name} | {used:.1f} MiB | {compiled.cost_analysis()['flops']:.2e} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
