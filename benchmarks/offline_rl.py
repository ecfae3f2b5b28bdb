"""Offline algorithms: updates per second compared with CORL's, five seeds at once compared with
one, and the cost of new model rollouts.

    python benchmarks/offline_rl.py [--corl CHECKOUT --corl-python ENVIRONMENT/bin/python]
        [--rounds 3] [--only updates seeds refresh]

updates   TD3+BC and IQL, 2 x 256 units, batches of 256, float32, 200,000 transitions of
          HalfCheetah's sizes
seeds     seconds of an update of five seeds at once, in those of one seed
refresh   seconds of imagining 50,000 x 5 steps with an ensemble, in those of 1,000 updates of MOPO

Transitions are random: times do not depend on them. Both sides draw their batches and are timed as
they train, in processes of their own that take turns, so that a slow phase of the machine affects
both. corl_learner.py describes how to make an environment for CORL. Without --corl only this
project is measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PARTS = ("updates", "seeds", "refresh")
ALGORITHMS = ("td3_bc", "iql")
SEEDS = 5
EPISODES, STEPS = 200, 1000
OBSERVATION, ACTION = 17, 6  # sizes
STARTS = 50_000  # initial states of a refresh
WARM_UP_CALLS = 2  # the first one compiles


# ---------------------------------------------------------------------------------- this project's


class Bench:
    """Policy stages on random transitions, built and run as in training."""

    def __init__(self, updates: int, repeats: int):
        import numpy as np

        from worldmodel.data.spec import ActionSpec
        from worldmodel.data.trajectories import Trajectories

        rng, rows = np.random.default_rng(0), EPISODES * (STEPS + 1)
        self.logs = Trajectories(
            observations={"observation": rng.normal(size=(rows, OBSERVATION)).astype("f4")},
            actions=rng.uniform(-1, 1, (rows, ACTION)).astype("f4"),
            rewards=rng.normal(size=rows).astype("f4"),
            lengths=np.full(EPISODES, STEPS + 1),
            terminated=np.zeros(EPISODES, bool),
            action_spec=ActionSpec(False, ACTION, (-1.0,) * ACTION, (1.0,) * ACTION),
            source="random numbers",
        )
        self.updates, self.repeats = updates, repeats

    def update(self, *words: str) -> list[float]:
        """Seconds of an update of the run with options `words`, for each repeat."""
        import jax

        from worldmodel.training.dispatch import make_dispatch
        from worldmodel.training.mesh import all_devices

        stage = self._stage(words)
        dispatch = make_dispatch(stage.learner, stage.batches, all_devices(), self.updates)
        arrays = jax.device_put(stage.batches.arrays())

        def call(state: Any, number: int) -> Any:
            feed = stage.batches.feed(number * self.updates, self.updates)
            return dispatch(state, arrays, feed, jax.random.key(0))[0]

        return [seconds / self.updates for seconds in self._timed(call, stage)]

    def refresh(self, *words: str) -> list[float]:
        """Seconds of the rollouts of one refresh, for each repeat."""
        import jax

        from worldmodel.training.dispatch import make_rollout_update
        from worldmodel.training.mesh import all_devices

        stage = self._stage(words)
        renew = make_rollout_update(stage.rollout_update, all_devices())
        arrays = jax.device_put(stage.rollout_update.batches.arrays())

        def call(state: Any, number: int) -> Any:
            return renew(
                state, arrays, stage.rollout_update.batches.feed(number, 1), jax.random.key(0)
            )

        return self._timed(call, stage)

    def _stage(self, words: tuple[str, ...]) -> Any:
        from worldmodel.config.arguments import parse_overrides
        from worldmodel.config.compose import build_config
        from worldmodel.training.dispatch import make_stage
        from worldmodel.training.plan import plan_stages

        config = build_config(HERE.parent / "configs", parse_overrides(words))
        spec = self.logs.spec({"observation": "standardize"})
        plan = plan_stages(config, spec)["policy"]
        return make_stage(plan, self.logs, plan.build_learner())

    def _timed(self, call: Callable[[Any, int], Any], stage: Any) -> list[float]:
        """Seconds of each call on the state that the last one left, but of those that warm up."""
        import jax

        state = stage.learner.init(jax.random.key(0))
        seconds = []
        for number in range(WARM_UP_CALLS + self.repeats):
            began = time.perf_counter()
            state = jax.block_until_ready(call(state, number))
            seconds.append(time.perf_counter() - began)
        return seconds[WARM_UP_CALLS:]


def measure(parts: list[str], updates: int, repeats: int) -> dict[str, list[float]]:
    """Seconds by what was timed."""
    import jax

    bench = Bench(updates, repeats)
    sizes = (f"policy.rollout_batch_size={STARTS}", "policy.horizon=5", "policy.rollout_retain=1")
    mopo = ("policy=mopo", "model.preset=tiny", *sizes)
    timed: dict[str, Callable[[], list[float]]] = {}
    if {"updates", "seeds"} & set(parts):
        timed |= {name: partial(bench.update, f"policy={name}") for name in ALGORITHMS}
    if "seeds" in parts:
        timed |= {
            f"{name} x {SEEDS}": partial(
                bench.update, f"policy={name}", f"training.num_seeds={SEEDS}"
            )
            for name in ALGORITHMS
        }
    if "refresh" in parts:
        timed |= {"mopo": partial(bench.update, *mopo), "refresh": partial(bench.refresh, *mopo)}
    return {name: run() for name, run in timed.items()} | {"device": jax.devices()[0].device_kind}


# ------------------------------------------------------------------------------------------- tables


def run(command: list[str]) -> dict[str, Any]:
    """Runs a side's benchmark and reads its last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(ours: dict[str, list[float]], corl: dict[str, list[float]]) -> dict[str, list[float]]:
    """Numbers for each round.

    ours: seconds by what was timed; corl: updates per second by algorithm
    """
    lines: dict[str, list[float]] = {}
    for name in (n for n in ALGORITHMS if n in ours):
        lines[f"{name} updates/s"] = [1 / seconds for seconds in ours[name]]
        if name in corl:
            lines[f"{name} updates/s, CORL"] = corl[name]
            lines[f"{name} ours / CORL"] = divided(lines[f"{name} updates/s"], corl[name])
        if (several := f"{name} x {SEEDS}") in ours:
            lines[f"{name} {SEEDS} seeds / 1"] = divided(ours[several], ours[name])
    if "refresh" in ours:
        thousand = [1000 * seconds for seconds in ours["mopo"]]
        lines["mopo updates/s"] = [1 / seconds for seconds in ours["mopo"]]
        lines["refresh seconds"] = ours["refresh"]
        lines["refresh / 1,000 updates"] = divided(ours["refresh"], thousand)
    return lines


def divided(numbers: list[float], by: list[float]) -> list[float]:
    return [x / y for x, y in zip(numbers, by, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corl", help="a checkout of tinkoff-ai/CORL")
    parser.add_argument("--corl-python", default=sys.executable, help="the Python that runs it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200, help="updates per timed call")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls per round")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(measure(arguments.only, arguments.updates, arguments.repeats)))
        return
    sizes = ["--updates", str(arguments.updates), "--repeats", str(arguments.repeats)]
    sides = {"ours": [sys.executable, __file__, "--ours", "--only", *arguments.only, *sizes]}
    if arguments.corl and "updates" in arguments.only:
        script = str(HERE / "corl_learner.py")
        sides["CORL"] = [arguments.corl_python, script, "--source", arguments.corl, *sizes]
    rounds: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    for number in range(arguments.rounds):
        for side, command in sides.items():
            result = run(command)
            timed = {n: median(v) for n, v in result.items() if isinstance(v, list)}
            for name, value in timed.items():
                rounds[side].setdefault(name, []).append(value)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in timed.items())
            print(f"round {number + 1}  {side} on {result['device']}: {shown}", flush=True)
    lines = table(rounds["ours"], rounds.get("CORL", {}))
    print(f"\n{'':24s} {'median':>9s} {'least':>9s} {'most':>9s}   n = rounds")
    for name, values in lines.items():
        numbers = " ".join(f"{x:9.4g}" for x in (median(values), min(values), max(values)))
        print(f"{name:24s} {numbers}   {len(values)}")
    print(json.dumps({name: median(values) for name, values in lines.items()}))


if __name__ == "__main__":
    main()
