"""Seconds of each form of a linear recurrence, forward and backward, by the number of steps.

    python benchmarks/linear_recurrence.py [--batch 256] [--modes 64] [--repeats 5]

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

from worldmodel.nn.linear_recurrence import FORMS, Block, Pair, linear_recurrence

MOST_KERNEL_BYTES = 2**30  # of the Toeplitz form


def problem(steps: int, batch: int, modes: int) -> tuple[Block, Pair, Pair]:
    rng = np.random.default_rng(0)
    size, angle = np.exp(-rng.uniform(0, 0.1, modes)), rng.uniform(0, 3, modes)
    re, im = (jnp.asarray(x, jnp.float32) for x in (size * np.cos(angle), size * np.sin(angle)))
    start = Pair(*jnp.asarray(rng.normal(size=(2, batch, modes)), jnp.float32))
    inputs = Pair(*jnp.asarray(rng.normal(size=(2, steps, batch, modes)), jnp.float32))
    return Block(re, -im, im, re), inputs, start


def loss(arguments: tuple[Block, Pair, Pair], mode: str) -> jax.Array:
    return sum(jnp.square(x).mean() for x in linear_recurrence(*arguments, mode=mode))


def measure(steps: int, batch: int, modes: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each gradient, form by form; the first one compiles and is not counted."""
    arguments = problem(steps, batch, modes)
    fits = 16 * steps**2 * modes <= MOST_KERNEL_BYTES
    gradients = {
        mode: jax.jit(jax.grad(partial(loss, mode=mode)))
        for mode in FORMS
        if mode != "toeplitz" or fits
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in gradients}
    for _ in range(repeats + 1):
        for mode, gradient in gradients.items():
            began = time.perf_counter()
            jax.block_until_ready(gradient(arguments))
            seconds[mode].append(time.perf_counter() - began)
    return {mode: values[1:] for mode, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--modes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 128, 512, 2048])
    arguments = parser.parse_args()
    print("steps   " + "".join(f"{mode + ' ms':>16s}" for mode in FORMS))
    results: dict[int, dict[str, float]] = {}
    for steps in arguments.steps:
        found = measure(steps, arguments.batch, arguments.modes, arguments.repeats)
        results[steps] = {
            mode: median(a / b for a, b in zip(found["sequential"], values, strict=True))
            for mode, values in found.items()
        }
        cells = [f"{1e3 * median(found[m]):.1f}" if m in found else "-" for m in FORMS]
        print(f"{steps:<8d}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    print(json.dumps({"device": jax.devices()[0].device_kind, "times_as_fast": results}))


if __name__ == "__main__":
    main()
