"""Seconds of each form of a linear recurrence, forward and backward, by the number of steps.

    python benchmarks/linear_recurrence.py [--batch 256] [--modes 32] [--repeats 7]

The forms take turns, repeat by repeat; the ratio is to the sequential scan in the same repeat.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.nn.linear_recurrence import MODES, Complex, solve

MOST_KERNEL_BYTES = 2**30  # of the dense form


def problem(steps: int, batch: int, modes: int) -> tuple:
    rng = np.random.default_rng(0)
    log_size = jnp.asarray(-rng.uniform(0, 0.1, modes), jnp.float32)
    angle = jnp.asarray(rng.uniform(0, 3, modes), jnp.float32)
    start = Complex(*jnp.asarray(rng.normal(size=(2, batch, modes)), jnp.float32))
    inputs = Complex(*jnp.asarray(rng.normal(size=(2, batch, steps, modes)), jnp.float32))
    return log_size, angle, start, inputs


def loss(arguments: tuple, mode: str) -> jax.Array:
    states = solve(*arguments, mode=mode)
    return jnp.square(states.re).mean() + jnp.square(states.im).mean()


def measure(steps: int, batch: int, modes: int, repeats: int) -> dict[str, float]:
    """Median seconds of a gradient, form by form."""
    arguments = problem(steps, batch, modes)
    fits = 8 * steps**2 * modes <= MOST_KERNEL_BYTES
    forms = [mode for mode in MODES if mode != "dense" or fits]
    gradients = {mode: jax.jit(jax.grad(partial(loss, mode=mode))) for mode in forms}
    seconds: dict[str, list[float]] = {mode: [] for mode in forms}
    for repeat in range(repeats + 1):
        for mode, gradient in gradients.items():
            began = time.perf_counter()
            jax.block_until_ready(gradient(arguments))
            if repeat:  # the first one compiles
                seconds[mode].append(time.perf_counter() - began)
    return {mode: median(values) for mode, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--modes", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 128, 512, 2048])
    arguments = parser.parse_args()
    print("steps   " + "".join(f"{mode + ' ms':>16s}" for mode in MODES))
    results = {}
    for steps in arguments.steps:
        found = measure(steps, arguments.batch, arguments.modes, arguments.repeats)
        results[steps] = {mode: found["scan"] / seconds for mode, seconds in found.items()}
        cells = [f"{1e3 * found[m]:.1f}" if m in found else "-" for m in MODES]
        print(f"{steps:<8d}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    print(json.dumps({"device": jax.devices()[0].device_kind, "speed_beside_scan": results}))


if __name__ == "__main__":
    main()
