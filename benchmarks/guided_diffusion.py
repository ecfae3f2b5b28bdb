"""Trajectory diffusion compared with step-by-step models on Pendulum: are their rollouts accurate?

    python benchmarks/guided_diffusion.py --folder FOLDER [--words ...]

Every model is trained by `python train.py`, with WORDS, in a process of its own and kept in FOLDER;
trajectory diffusion, whose updates are cheap, for twice as many, on segments of 16 steps. From the
same held-out starts, each imagines 32 steps under the same policy, a noisy swing-up controller. The
imagined actions are then taken in the real environment from the same states: the dynamics error is
the distance of imagined and real observations in training standard deviations, median over starts
with a 95 % interval. Then, for trajectory diffusion alone: guidance strengths, and calls of the
network. Last, calibration of samples under logged actions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import worldmodel
from worldmodel import data
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.data.windows import gather_windows, step_arrays
from worldmodel.evaluation.scores import ensemble_spread_skill_ratio, fair_crps
from worldmodel.evaluation.statistics import Bootstrap, Estimate, median
from worldmodel.imagination import Rollout, imagine
from worldmodel.loading import LoadedRun
from worldmodel.models import WorldModel
from worldmodel.nn.distributions import Normal

TRAIN = Path(__file__).parent.parent / "train.py"
HORIZONS = (16, 32)
CONTEXT = 10  # steps of context
PIECE = 17  # observations of a segment of 16 steps; two segments make 32
MODELS = ("trajectory_diffusion", "diffusion", "rssm", "mlp", "gru")
WHOLE = "trajectory_diffusion"
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
CALLS = {  # sampler and levels -> calls of the network
    ("euler", 8): 8,
    ("euler", 16): 16,
    ("euler", 32): 32,
    ("euler", 64): 64,
    ("heun", 32): 63,
    ("heun", 256): 511,
}
BOOTSTRAP = Bootstrap(2000, 0.95, 0)


def train(model: str, arguments: argparse.Namespace) -> LoadedRun:
    """Trains a run unless it is finished, and loads it."""
    name, folder = f"dream-{model}", arguments.folder
    command = [sys.executable, str(TRAIN), f"name={name}", f"model={model}", "policy=none"]
    command += ["data.normalize=[standardize]", f"data.cache_dir={folder / 'datasets'}"]
    rows, steps = HORIZONS[-1] + 1, arguments.steps
    if model == WHOLE:
        rows, steps = PIECE, 2 * steps
        command += [f"model.segment_length={PIECE}"]
    command += [f"training.world_model.window={rows}", f"training.world_model.steps={steps}"]
    command += [f"runs_dir={folder / 'runs'}", "logging.wandb=disabled"]
    command += ["logging.progress=none", *arguments.words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return worldmodel.load(folder / "runs" / name)


# --------------------------------------------------------------------------------------- the policy


def swing_up(observation: jax.Array) -> Normal:
    """Actions (..., 1) for observations (..., 3), cos and sin of the angle from upright and the
    speed: pumps energy, and holds the pendulum near the top.
    """
    cosine, sine, speed = jnp.moveaxis(observation, -1, 0)
    energy = speed**2 / 6 + 5 * (cosine - 1)
    pump = -2.0 * energy * jnp.sign(speed)
    hold = -(8.0 * jnp.arctan2(sine, cosine) + 2.0 * speed)
    torque = jnp.where(cosine > 0.85, hold, pump)
    return Normal(jnp.clip(torque / 2, -1, 1)[..., None], jnp.asarray(0.2))


def actor_of(model: WorldModel) -> Callable[[jax.Array], Normal]:
    """The policy on a model's features: on the observation that they stand for."""

    def act(features: jax.Array) -> Normal:
        if hasattr(model, "decoder"):
            return swing_up(model.decoder(features)["observation"].mean())
        size = model.point_size
        rows = getattr(model.options, "history", 1)
        point = features[..., (rows - 1) * size : rows * size]
        return swing_up(model.vectors.predict(point)["observation"].mean())

    return act


# ---------------------------------------------------------------------------------- dream and world


@nnx.jit
def dreamt(model: WorldModel, window: Any, key: jax.Array) -> tuple[Rollout, jax.Array, jax.Array]:
    """A rollout from the last row of the window, what it shows (B, H + 1, 3), and log pi of its
    actions.
    """
    keys = jax.random.split(key)
    start = jax.tree.map(lambda x: x[:, -1], model.observe(window, keys[0]))
    rollout = imagine(model, start, actor_of(model), HORIZONS[-1], keys[1])
    shown = model.observation(rollout.states)["observation"].mean()
    likelihood = swing_up(shown[:, :-1]).log_prob(rollout.actions)
    return rollout, shown, likelihood


def replayed(starts: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """(B, H, 3) observed when actions (B, H, 1) are done in the real environment from `starts`
    (B, 3).
    """
    world, seen = gymnasium.make("Pendulum-v1").unwrapped, np.zeros((*actions.shape[:2], 3))
    for b, (cosine, sine, speed) in enumerate(starts):
        world.reset(seed=0)
        world.state = np.array([np.arctan2(sine, cosine), speed])
        for t, action in enumerate(actions[b]):
            seen[b, t] = world.step(2 * np.clip(action, -1, 1))[0]
    return seen


def dynamics_error(run: LoadedRun, window: Any, key: jax.Array) -> dict[str, Estimate]:
    """By horizon, with the mean log-likelihood of the dreamt actions."""
    rollout, shown, likelihood = jax.tree.map(np.asarray, dreamt(run.model, window, key))
    world = replayed(shown[:, 0], rollout.actions)
    off = (shown[:, 1:] - world) / np.asarray(run.spec.observations["observation"].std)
    off = np.sqrt(np.square(off).mean(-1))
    numbers = {f"error {h}": clustered(off[:, h - 1]) for h in HORIZONS}
    return numbers | {"log pi": BOOTSTRAP.mean(likelihood.mean(1), "starts")}


def clustered(values: np.ndarray) -> Estimate:
    return BOOTSTRAP.clustered(median(values), np.arange(len(values)), "median over starts")


def starts_of(held_out: Trajectories, count: int, rows: int, seed: int = 0) -> np.ndarray:
    """First rows (count,) of windows of `rows` rows, each inside one episode."""
    rng = np.random.default_rng(seed)
    episodes = rng.integers(0, held_out.num_episodes, count)
    within = rng.integers(0, held_out.lengths[episodes] - rows + 1)
    return held_out.offsets[episodes] + within


def calibration(run: LoadedRun, held_out: Trajectories, count: int) -> dict[str, float]:
    """Of 16 sampled futures that follow logged actions: fair CRPS, in training standard deviations,
    and spread over skill.
    """
    rows = CONTEXT + HORIZONS[-1]
    index = starts_of(held_out, count, rows)[:, None] + np.arange(rows)
    seen, acted = held_out.observations["observation"][index], held_out.actions[index]
    samples = run.predict({"observation": seen}, acted, CONTEXT, HORIZONS[-1], samples=16)
    samples = np.moveaxis(samples["observation"], 1, 0)
    std = np.asarray(run.spec.observations["observation"].std)
    found = {}
    for h in HORIZONS:
        futures, truth = samples[:, :, h - 1] / std, seen[:, CONTEXT - 1 + h] / std
        found[f"CRPS {h}"] = float(fair_crps(futures, truth).mean())
        found[f"spread / skill {h}"] = ensemble_spread_skill_ratio(futures, truth)
    return found


# ------------------------------------------------------------------------------------------- tables


def show(title: str, rows: dict[str, dict[str, Any]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for name, numbers in rows.items():
        cells = [f"{n:.3f}" if isinstance(n, float) else str(n) for n in numbers.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of runs; finished ones are reused"
    )
    parser.add_argument("--steps", type=int, default=4000, help="updates of each model")
    parser.add_argument("--starts", type=int, default=512)
    parser.add_argument("--words", nargs="+", default=[], help="more options of train.py")
    arguments = parser.parse_args()
    runs = {model: train(model, arguments) for model in MODELS}
    whole = runs[WHOLE]
    _, held_out = split(data.load(whole.config.data), whole.config.data.holdout)
    starts = starts_of(held_out, arguments.starts, CONTEXT)
    window = gather_windows(step_arrays(held_out), starts, np.full(len(starts), CONTEXT), CONTEXT)
    key, results = jax.random.key(0), {}

    results["models"] = {name: dynamics_error(run, window, key) for name, run in runs.items()}
    show("model", results["models"])
    options = whole.model.options
    results["guidance"], results["calls"] = {}, {}
    for strength in STRENGTHS:
        whole.model.options = replace(options, guidance=strength)
        results["guidance"][f"{strength:g}"] = dynamics_error(whole, window, key)
    show("guidance", results["guidance"])
    for (sampler, levels), calls in CALLS.items():
        whole.model.options = replace(options, sampler=sampler, sampler_steps=levels)
        results["calls"][f"{calls} ({sampler})"] = dynamics_error(whole, window, key)
    show("network calls", results["calls"])
    whole.model.options = options
    results["calibration"] = {
        name: calibration(run, held_out, arguments.starts) for name, run in runs.items()
    }
    show("calibration", results["calibration"])
    print(json.dumps(results, default=lambda number: number.to_json()))


if __name__ == "__main__":
    main()
