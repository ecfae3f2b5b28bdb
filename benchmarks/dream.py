"""Steps a second of dreams beside those of the simulator they stand for, HalfCheetah-v5.

    python benchmarks/dream.py [--envs 1024] [--steps 64] [--repeats 9]

Models are the families at their preset `1m`, with first parameters and the end made as unlikely as
a trained one says it is: what a step costs does not depend on more. Both ways to step are timed,
the function in a `lax.scan` and the vector environment, whose arrays come back to the host at every
step. The simulator is one environment in this process, without wrappers. All take turns, repeat by
repeat, and a ratio is to the simulator in the same repeat; shown are medians with quartiles.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable

import gymnasium
import jax
import numpy as np

from worldmodel import models
from worldmodel.config import GymnasiumData, KoopmanOptions, ModelOptions, RSSMOptions
from worldmodel.config.dream import DreamOptions
from worldmodel.data.readers.gymnasium import collect
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamState, DreamVectorEnv, build

ENVIRONMENT, EPISODES, SIMULATED_STEPS = "HalfCheetah-v5", 4, 1000
FAMILIES = {"rssm": RSSMOptions(preset="1m"), "koopman": KoopmanOptions(preset="1m")}
UNLIKELY = -20.0  # logit of an end


def dream_of(options: ModelOptions, logs: Trajectories) -> Dream:
    spec = logs.spec({"observation": "standardize"})
    model = models.build(options, spec, jax.random.key(0))
    bias = model.terminal_head.output.bias
    bias[...] = np.full_like(bias[...], UNLIKELY)
    chosen = DreamOptions(context=10, time_limit=1000)
    return build(model, spec, logs, np.arange(logs.num_episodes), chosen)


def parameters(dream: Dream) -> int:
    return sum(x.size for x in jax.tree.leaves(dream.params))


def scanned(dream: Dream, envs: int, steps: int) -> Callable[[], None]:
    """Runs `steps` steps of `envs` dreams in one call; all that a step gives is kept."""
    low, high = (np.asarray(bound, np.float32) for bound in (dream.actions.low, dream.actions.high))
    shape = (steps, envs, dream.actions.size)
    actions = jax.random.uniform(jax.random.key(1), shape, minval=low, maxval=high)

    @jax.jit
    def run(dream: Dream, state: DreamState, actions: jax.Array, keys: jax.Array) -> tuple:
        def advance(state: DreamState, inputs: tuple[jax.Array, jax.Array]) -> tuple:
            state, *given = dream.step(state, *inputs)
            return state, given

        return jax.lax.scan(advance, state, (actions, keys))

    state, _ = jax.jit(Dream.reset, static_argnums=2)(dream, jax.random.key(0), envs)
    keys = jax.random.split(jax.random.key(2), steps)
    return lambda: jax.block_until_ready(run(dream, state, actions, keys)) and None


def stepped(dream: Dream, logs: Trajectories, envs: int, steps: int) -> Callable[[], None]:
    """Runs `steps` steps of a vector environment."""
    environments = DreamVectorEnv(dream, logs.spec(), envs)
    environments.reset(seed=0)
    environments.action_space.seed(0)
    actions = [environments.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            environments.step(action)

    return run


def simulated(steps: int) -> Callable[[], None]:
    environment = gymnasium.make(ENVIRONMENT, disable_env_checker=True).unwrapped
    environment.reset(seed=0)
    environment.action_space.seed(0)
    actions = [environment.action_space.sample() for _ in range(steps)]

    def run() -> None:
        for action in actions:
            environment.step(action)

    return run


def seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    envs, steps = arguments.envs, arguments.steps
    with tempfile.TemporaryDirectory() as cache:
        name = ENVIRONMENT
        logs = collect(GymnasiumData(environment=name, episodes=EPISODES, cache_dir=cache))
        logs = logs.compact()
        dreams = {family: dream_of(options, logs) for family, options in FAMILIES.items()}
        runs = {"simulator": (simulated(SIMULATED_STEPS), SIMULATED_STEPS)}
        for family, dream in dreams.items():
            runs[f"{family}, scan"] = scanned(dream, envs, steps), envs * steps
            runs[f"{family}, vector environment"] = stepped(dream, logs, envs, steps), envs * steps
        for run, _ in runs.values():
            run()  # compiles
        rates = {name: [] for name in runs}
        for _ in range(arguments.repeats):
            for name, (run, count) in runs.items():
                rates[name].append(count / seconds(run))
    sizes = {family: f"{parameters(dream):,} parameters" for family, dream in dreams.items()}
    print(
        f"{envs} dreams on {jax.devices()[0].device_kind}; "
        + "; ".join(map(" ".join, sizes.items()))
    )
    print(f"{'':32s}{'steps a second':>16s}{'times the simulator':>32s}")
    found = {}
    for name, values in rates.items():
        ratios = np.divide(values, rates["simulator"])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"{name:32s}{np.median(values):>16,.0f}{f'{middle:.1f} [{low:.1f}, {high:.1f}]':>32s}"
        )
        found[name] = {"steps_a_second": float(np.median(values)), "ratio": float(middle)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
