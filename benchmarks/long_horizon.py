"""Seconds of a gradient through long predictions: koopman, gru and mlp of the same preset.

    python benchmarks/long_horizon.py [--preset tiny] [--batch 256] [--repeats 5]

Two measures, forward and backward. `rollout`: from given latents and actions to predicted latents,
the squared distance of which from others is the loss. `loss`: the whole training loss of a window
that is one step longer, with encoder, filter and decoder, which all families share. Vectors of 17
numbers, 6 actions, no rewards, as in the published protocol. The families take turns, repeat by
repeat; ratios are medians of the ratios within a repeat. An exponent e means that seconds grow as
horizon^e, by least squares on logarithms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import models
from worldmodel.config.registry import schemas
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.nn.learner import split_module

FAMILIES = ("koopman", "gru", "mlp")
OBSERVED, ACTIONS = 17, 6
SPEC = DataSpec(
    {"observation": ObservationSpec((OBSERVED,), "float32")},
    ActionSpec(False, ACTIONS, (-1.0,) * ACTIONS, (1.0,) * ACTIONS),
    has_reward=False,
)
KEY = jax.random.key(0)  # no family uses it


def window_of(batch: int, rows: int) -> Window:
    rng, no = np.random.default_rng(0), jnp.zeros((batch, rows), bool)
    return Window(
        observation={"observation": jnp.asarray(rng.normal(size=(batch, rows, OBSERVED)), "f4")},
        action=jnp.asarray(rng.uniform(-1, 1, (batch, rows, ACTIONS)), "f4"),
        reward=jnp.zeros((batch, rows)),
        is_first=no.at[:, 0].set(True), is_last=no, is_terminal=no, mask=~no,
    )  # fmt: skip


def rollout_loss(model: models.WorldModel, window: Window) -> jax.Array:
    """From the first latent; the targets are random, since times do not depend on them."""
    start = model.initial(window.shape[:1])
    states = model.rollout(start, window.action[:, :-1], KEY)
    aim = window.observation["observation"][:, 1:, :1]
    return jnp.square(model.features(states) - aim).mean()


def training_loss(model: models.WorldModel, window: Window) -> jax.Array:
    return model.loss(window, KEY)[0]


MEASURES = {"rollout": rollout_loss, "loss": training_loss}


def gradient_of(family: str, preset: str, loss: Callable) -> tuple[Callable, int]:
    """A compiled function from a window to the gradient, and the number of parameters."""
    options = schemas("model")[family](preset=preset, burn_in=0)
    definition, params = split_module(models.build(options, SPEC, KEY))
    gradient = jax.jit(jax.grad(lambda p, window: loss(nnx.merge(definition, p), window)))
    return lambda window: gradient(params, window), sum(x.size for x in jax.tree.leaves(params))


def measure(gradients: dict[str, Callable], window: Window, repeats: int) -> dict[str, list]:
    """Seconds of each repeat; the first one compiles and is not counted."""
    seconds: dict[str, list[float]] = {family: [] for family in gradients}
    for _ in range(repeats + 1):
        for family, gradient in gradients.items():
            began = time.perf_counter()
            jax.block_until_ready(gradient(window))
            seconds[family].append(time.perf_counter() - began)
    return {family: values[1:] for family, values in seconds.items()}


def exponent(horizons: list[int], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(horizons), np.log(seconds), 1)[0])


def report(name: str, horizons: list[int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints the table of a measure."""
    pairs = {f: gradient_of(f, arguments.preset, MEASURES[name]) for f in FAMILIES}
    gradients = {family: gradient for family, (gradient, _) in pairs.items()}
    medians: dict[str, list[float]] = {family: [] for family in FAMILIES}
    ratios: dict[int, dict[str, float]] = {}
    titles = [f"{family} ms" for family in FAMILIES] + [f"{f} / koopman" for f in FAMILIES[1:]]
    print(f"\n{name:<8s}" + "".join(f"{title:>16s}" for title in titles))
    for horizon in horizons:
        found = measure(gradients, window_of(arguments.batch, horizon + 1), arguments.repeats)
        ratios[horizon] = {
            family: median(a / b for a, b in zip(found[family], found["koopman"], strict=True))
            for family in FAMILIES[1:]
        }
        for family in FAMILIES:
            medians[family].append(median(found[family]))
        cells = [f"{1e3 * medians[family][-1]:.1f}" for family in FAMILIES]
        cells += [f"{ratio:.2f}" for ratio in ratios[horizon].values()]
        print(f"{horizon:<8d}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    exponents = {family: exponent(horizons, medians[family]) for family in FAMILIES}
    print("exponent" + "".join(f"{exponents[family]:>16.2f}" for family in FAMILIES))
    return {
        "seconds": medians,
        "times_koopman": ratios,
        "exponents": exponents,
        "parameters": {family: count for family, (_, count) in pairs.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--horizons", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    arguments = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"{device}, preset {arguments.preset}, batch {arguments.batch}")
    results = {name: report(name, arguments.horizons, arguments) for name in arguments.measures}
    print(json.dumps({"device": device, "horizons": arguments.horizons} | results))


if __name__ == "__main__":
    main()
