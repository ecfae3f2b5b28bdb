"""Steps per second of dreams, compared with those of the simulator, HalfCheetah-v5.

    python benchmarks/dream.py [--envs 1024] [--steps 64] [--repeats 9] [--preset 1m]

Models have initial parameters, and episode ends are made as unlikely as in a trained model: the
cost of a step depends on nothing else. Two ways of stepping are timed, the function in a `lax.scan`
and the vector environment, whose arrays are copied to the host at every step. The simulator is one
environment in this process, without wrappers. All take turns, repeat by repeat, and a ratio is to
the simulator in the same repeat; the table holds medians with quartiles.

A step is bound by its matrix products, so the last column is its arithmetic as a fraction of a
plain large product in the same repeat. On a shared machine, steps per second of CPU time vary less:
the two columns after the ratio hold these.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from worldmodel import models
from worldmodel.config import ModelOptions
from worldmodel.data.readers.gymnasium import GymnasiumData, collect
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamState, DreamVectorEnv, build_dream
from worldmodel.dream.options import DreamOptions
from worldmodel.models.koopman import KoopmanOptions
from worldmodel.models.rssm import RSSMOptions

ENVIRONMENT, EPISODES, SIMULATED_STEPS = "HalfCheetah-v5", 4, 1000
FAMILIES = {"rssm": RSSMOptions, "koopman": KoopmanOptions}
PRODUCT = 1024  # rows and columns of the plain product
UNLIKELY = -20.0  # logit of an end


def dream_of(options: ModelOptions, logs: Trajectories) -> Dream:
    spec = logs.spec({"observation": "standardize"})
    model = models.build(options, spec, jax.random.key(0))
    bias = model.terminal_head.output.bias
    bias[...] = np.full_like(bias[...], UNLIKELY)
    chosen = DreamOptions(context=10, time_limit=1000)
    return build_dream(model, spec, logs, np.arange(logs.num_episodes), chosen)


def parameters(dream: Dream) -> int:
    return sum(x.size for x in jax.tree.leaves(dream.params))


def scanned(dream: Dream, envs: int, steps: int) -> Callable[[], Any]:
    """Runs `steps` steps of `envs` dreams in one call and keeps all outputs."""
    low, high = (
        np.asarray(bound, np.float32) for bound in (dream.action_spec.low, dream.action_spec.high)
    )
    shape = (steps, envs, dream.action_spec.size)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=low, maxval=high)

    @jax.jit
    def run(dream: Dream, state: DreamState, actions: jax.Array, keys: jax.Array) -> tuple:
        def advance(state: DreamState, inputs: tuple[jax.Array, jax.Array]) -> tuple:
            state, *given = dream.step(state, *inputs)
            return state, given

        return jax.lax.scan(advance, state, (actions, keys))

    state, _ = jax.jit(Dream.reset, static_argnums=2)(dream, jax.random.key(0), envs)
    keys = jax.random.split(jax.random.key(2), steps)
    return lambda: run(dream, state, actions, keys)


def stepped(dream: Dream, logs: Trajectories, envs: int, steps: int) -> Callable[[], Any]:
    """Runs `steps` steps of a vector environment."""
    environments = DreamVectorEnv(dream, logs.spec(), envs)
    environments.reset(seed=0)
    environments.action_space.seed(0)
    actions = [environments.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            environments.step(action)

    return run


def multiplied() -> tuple[Callable[[], Any], int]:
    """A plain matrix product, and its number of operations."""
    x = jax.random.normal(jax.random.key(0), (PRODUCT, PRODUCT))
    product = jax.jit(jnp.matmul)
    return lambda: product(x, x), 2 * PRODUCT**3


def operations(dream: Dream, envs: int) -> float:
    """Operations of a step of one dream, as the compiler counts them."""
    state, _ = dream.reset(jax.random.key(0), envs)
    actions = jnp.zeros((envs, dream.action_spec.size))
    program = jax.jit(Dream.step).lower(dream, state, actions, jax.random.key(0)).compile()
    return program.cost_analysis()["flops"] / envs


def simulated(steps: int) -> Callable[[], Any]:
    environment = gymnasium.make(ENVIRONMENT, disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    environment.action_space.seed(0)
    actions = [environment.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            environment.step(action)

    return run


class Timing(NamedTuple):
    """Steps per second, and per second of CPU time, for each repeat."""

    wall: list[float]
    core: list[float]


def timed(runs: dict[str, tuple[Callable[[], Any], float]], repeats: int) -> dict[str, Timing]:
    """All take turns; the first turn compiles and is not counted."""
    found = {name: Timing([], []) for name in runs}
    for repeat in range(repeats + 1):
        for name, (run, count) in runs.items():
            wall, core = time.perf_counter(), time.process_time()
            jax.block_until_ready(run())
            if repeat:
                found[name].wall.append(count / (time.perf_counter() - wall))
                found[name].core.append(count / (time.process_time() - core))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--preset", default="1m")
    arguments = parser.parse_args()
    envs, steps = arguments.envs, arguments.steps
    runs = {"simulator": (simulated(SIMULATED_STEPS), SIMULATED_STEPS), "product": multiplied()}
    needed = {}
    with tempfile.TemporaryDirectory() as cache:
        options = GymnasiumData(environment=ENVIRONMENT, episodes=EPISODES, cache_dir=cache)
        logs = collect(options).compact()
    print(f"{envs} dreams on {jax.devices()[0].device_kind}, {os.cpu_count()} cores")
    for family, schema in FAMILIES.items():
        dream = dream_of(schema(preset=arguments.preset), logs)
        ways = {"scan": scanned(dream, envs, steps), "env": stepped(dream, logs, envs, steps)}
        for way, run in ways.items():
            runs[f"{family} {way}"] = run, envs * steps
            needed[f"{family} {way}"] = operations(dream, envs)
        print(f"{family}: {parameters(dream):,} parameters, {needed[f'{family} scan']:,.0f} flops")
    found = timed(runs, arguments.repeats)
    heads = ("steps/s", "times the simulator", "steps/core s", "times", "of the product")
    print("{:14s}{:>12s}{:>22s}{:>15s}{:>8s}{:>16s}".format("", *heads))
    results = {}
    for name in ("simulator", *needed):
        one, simulator, product = found[name], found["simulator"], found["product"]
        low, ratio, high = np.quantile(np.divide(one.wall, simulator.wall), [0.25, 0.5, 0.75])
        of_core = np.median(np.divide(one.core, simulator.core))
        share = needed.get(name, 0) * np.median(np.divide(one.core, product.core))
        wall, core = np.median(one.wall), np.median(one.core)
        times = f"{ratio:.1f} [{low:.1f}, {high:.1f}]"
        print(f"{name:14s}{wall:>12,.0f}{times:>22s}{core:>15,.0f}{of_core:>8.1f}{share:>16.0%}")
        results[name] = {"steps_a_second": wall, "ratio": ratio, "of_core": of_core}
    print(json.dumps(results, default=float))


if __name__ == "__main__":
    main()
