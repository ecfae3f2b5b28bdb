"""Seconds of one joint update (world model, actor, critic), compared with DreamerV3's own learner.

    python benchmarks/joint_update.py [--source CHECKOUT --python ENVIRONMENT/bin/python] [--rounds
    3]

The 1m preset on vectors of 24 numbers with 6 continuous actions, batch 16 x 64, horizon 15,
float32, random batches. Both learners run in processes of their own, in turn, so that a slow phase
of the machine meets both. dreamerv3_learner.py describes how to make an environment for
DreamerV3. Without --source only this project is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of each update of this project's joint learner, after three to warm up."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from worldmodel import models
    from worldmodel.config import StageOptions
    from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
    from worldmodel.data.windows import Window
    from worldmodel.models.rssm import RSSMOptions
    from worldmodel.nn import optimizer
    from worldmodel.policies.actor_critic import ActorCriticOptions, JointLearner

    sizes = {"height": 1, "orientations": 14, "velocity": 9}
    observations = {key: ObservationSpec((size,), "float32") for key, size in sizes.items()}
    spec = DataSpec(observations, ActionSpec(False, 6, (-1.0,) * 6, (1.0,) * 6))
    rng = np.random.default_rng(0)

    def batch() -> Window:
        no = np.zeros((16, 64), bool)
        first = no.copy()
        first[:, 0] = True
        return Window(
            observation={k: rng.normal(size=(16, 64, n)).astype("f4") for k, n in sizes.items()},
            action=rng.uniform(-1, 1, (16, 64, 6)).astype("f4"),
            reward=rng.normal(size=(16, 64)).astype("f4"),
            is_first=first, is_last=no, is_terminal=no, mask=~no,
        )  # fmt: skip

    learner = JointLearner(
        ActorCriticOptions(),
        lambda key: models.build(RSSMOptions(preset="1m"), spec, key),
        spec,
        optimizer.build(StageOptions(steps=1)),
        jnp.float32,
    )
    batches = [jax.device_put(batch()) for _ in range(4)]
    state = learner.init(jax.random.key(0))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    update = jax.jit(learner.update, donate_argnums=0)
    seconds = []
    for k in range(repeats + 3):
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(update(state, batches[k % 4], jax.random.key(k)))
        seconds.append(time.perf_counter() - began)
    assert np.isfinite(float(metrics["loss/total"]))
    return {"name": "worldmodel", "seconds": seconds[3:], "parameters": parameters}


def run(command: list[str]) -> dict[str, Any]:
    """Runs a learner's benchmark and reads its last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="a checkout of danijar/dreamerv3")
    parser.add_argument("--python", default=sys.executable, help="the Python that can import it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(measure(arguments.repeats)))
        return
    repeats = ["--repeats", str(arguments.repeats)]
    commands = {"worldmodel": [sys.executable, __file__, "--ours", *repeats]}
    if arguments.source:
        script = str(HERE / "dreamerv3_learner.py")
        commands["dreamerv3"] = [arguments.python, script, "--source", arguments.source, *repeats]
    rounds: dict[str, list[float]] = {name: [] for name in commands}
    parameters = {}
    for number in range(arguments.rounds):
        for name, command in commands.items():
            result = run(command)
            rounds[name].append(median(result["seconds"]))
            parameters[name] = result["parameters"]
            print(f"round {number + 1}  {name:12s} {rounds[name][-1]:.3f} s", flush=True)
    print(f"\n{'learner':12s} {'parameters':>10s} {'median s':>9s} {'least s':>8s}   n = rounds")
    for name, values in rounds.items():
        numbers = f"{parameters[name]:10d} {median(values):9.3f} {min(values):8.3f}"
        print(f"{name:12s} {numbers}   {len(values)}")
    result = {"median_seconds": {name: median(v) for name, v in rounds.items()}}
    if "dreamerv3" in rounds:
        pairs = zip(rounds["dreamerv3"], rounds["worldmodel"], strict=True)
        result["speedup_by_round"] = [theirs / ours for theirs, ours in pairs]
        result["speedup"] = median(result["speedup_by_round"])
        print(f"\nours is {result['speedup']:.2f} times as fast (median over rounds)")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
