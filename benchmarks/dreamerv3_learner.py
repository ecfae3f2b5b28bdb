"""Seconds per update of DreamerV3's own learner, the reference for the learner of this project.

Runs https://github.com/danijar/dreamerv3 (written for commit e3f0224) unedited, from a checkout,
with the Python of an environment that has its packages. Nothing of this project is imported.

    git clone https://github.com/danijar/dreamerv3 SOURCE && git -C SOURCE checkout e3f0224
    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install jax==0.10.2 numpy ninjax elements portal optax chex einops
    ENVIRONMENT/bin/python dreamerv3_learner.py --source SOURCE

What is timed: one call of `Agent.train` (world model, imagined rollouts, actor, critic, optimizer,
slow critic) with a batch that already lies on the device, until parameters and carry are ready. As
in its own loop, the call also starts the copies of its outputs to the host and reads those of the
call before. Replay, environments and reports are left out. The agent has the size preset `1m` and
the default settings of its configs.yaml, but on the CPU in float32, without the profiler, and
compiled at the first update instead of ahead (which would compile the report too). Its constructor
overwrites XLA_FLAGS, so flags set from outside have no effect.

The checkout was written for JAX 0.4.33. The one thing it needs that JAX 0.10.2 lacks is restored in
memory by `accept_positional_jit_options`; no file is edited. A single device is assumed: the code
paths for several devices were not tried.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

# The walker of the DeepMind Control Suite: 14 + 1 + 9 floats observed, 6 torques in [-1, 1].
OBSERVATION_SHAPES = {"orientations": (14,), "height": (), "velocity": (9,)}
ACTION_SIZE = 6

# The modules with trained parameters; the rest of the state is optimizer, slow critic and norms.
TRAINED_MODULES = ("enc", "dyn", "dec", "rew", "con", "pol", "val")

WARM_UP_UPDATES = 3  # the first one compiles
BATCHES = 4  # random batches that the updates take turns with


def accept_positional_jit_options() -> None:
    """Let `jax.jit` take its options by position again, as JAX 0.4.33 did and the checkout does."""
    names = ("in_shardings", "out_shardings", "static_argnums", "static_argnames", "donate_argnums")
    keyword_only_jit = jax.jit

    @functools.wraps(keyword_only_jit)
    def jit(*function_and_options: Any, **options: Any) -> Any:
        function, positional = function_and_options[:1], function_and_options[1:]
        return keyword_only_jit(*function, **dict(zip(names, positional, strict=False)), **options)

    jax.jit = jit


def build_agent(source: Path, batch_size: int, length: int, horizon: int) -> Any:
    """DreamerV3's agent at size `1m` for the walker, with random parameters."""
    accept_positional_jit_options()
    sys.path.insert(0, str(source))
    import elements
    from dreamerv3.agent import Agent
    from ruamel.yaml import YAML

    presets = YAML(typ="safe").load((source / "dreamerv3" / "configs.yaml").read_text())
    config = elements.Config(presets["defaults"]).update(presets["size1m"])
    config = config.update(
        {
            "agent.imag_length": horizon,
            "jax.platform": "cpu",
            "jax.compute_dtype": "float32",
            "jax.prealloc": False,
        }
    )
    space = elements.Space
    observations = {name: space(np.float32, shape) for name, shape in OBSERVATION_SHAPES.items()}
    observations["reward"] = space(np.float32)
    observations |= {name: space(bool) for name in ("is_first", "is_last", "is_terminal")}
    actions = {"action": space(np.float32, (ACTION_SIZE,), -1, 1)}
    agent_config = elements.Config(
        **config.agent,
        logdir=config.logdir,  # written to by the profiler only, which is off
        seed=config.seed,
        jax={**config.jax, "precompile": False, "profiler": False},
        batch_size=batch_size,
        batch_length=length,
        replay_context=config.replay_context,
        report_length=config.report_length,
        replica=config.replica,
        replicas=config.replicas,
    )
    return Agent(observations, actions, agent_config)


def random_batch(agent: Any, rng: np.random.Generator) -> dict[str, jax.Array]:
    """What its replay would deliver, on the device: (B, T + context, ...) arrays and a (2,) seed.

    Context steps bring the latent states stored for them (dyn/deter, dyn/stoch). No step is the
    first or the last of an episode; the time of an update depends on none of these values.
    """
    rows = (agent.config.batch_size, agent.config.batch_length + agent.config.replay_context)

    def values(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if name == "action" or name == "dyn/deter":
            return rng.uniform(-1, 1, shape).astype(dtype)
        if name == "dyn/stoch":
            return np.eye(shape[-1], dtype=dtype)[rng.integers(shape[-1], size=shape[:-1])]
        if name == "stepid":
            return rng.integers(256, size=shape, dtype=dtype)
        if np.issubdtype(dtype, np.floating):
            return rng.normal(size=shape).astype(dtype)
        return np.zeros(shape, dtype)  # is_first, is_last, is_terminal, consec

    batch = {
        name: values(name, (*rows, *space.shape), space.dtype)
        for name, space in agent.spaces.items()
    }
    seed = rng.integers(np.iinfo(np.uint32).max, size=2, dtype=np.uint32)
    return {
        **jax.device_put(batch, agent.train_sharded),
        "seed": jax.device_put(seed, agent.train_mirrored),
    }


def time_updates(agent: Any, repeats: int) -> list[float]:
    """Wall-clock seconds of each of `repeats` updates, after the warm-up."""
    rng = np.random.default_rng(0)
    batches = [random_batch(agent, rng) for _ in range(BATCHES)]
    carry = agent.init_train(agent.config.batch_size)
    seconds = []
    for update in range(WARM_UP_UPDATES + repeats):
        batch = dict(batches[update % BATCHES])  # a copy, because train() takes the seed out of it
        start = time.perf_counter()
        carry, _, metrics = agent.train(carry, batch)
        jax.block_until_ready((agent.params, carry))
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(metrics["opt/loss"]):
        raise RuntimeError(f"The loss is {metrics['opt/loss']}: such updates cannot be compared.")
    return seconds[WARM_UP_UPDATES:]


def count_parameters(agent: Any) -> int:
    return sum(
        value.size for name, value in agent.params.items() if name.split("/")[0] in TRAINED_MODULES
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="checkout of danijar/dreamerv3")
    parser.add_argument("--repeats", type=int, default=10, help="updates timed")
    parser.add_argument("--batch", type=int, default=16, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=64, help="steps in a sequence, less context")
    parser.add_argument("--horizon", type=int, default=15, help="steps imagined from each state")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    source = arguments.source.resolve()
    agent = build_agent(source, arguments.batch, arguments.length, arguments.horizon)
    seconds = time_updates(agent, arguments.repeats)
    result = {
        "name": "dreamerv3",
        "median_seconds": statistics.median(seconds),
        "seconds": seconds,
        "parameters": count_parameters(agent),
        "jax": jax.__version__,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
