"""Updates per second of CORL's TD3+BC and IQL, the reference for the learners of this project.

Runs https://github.com/tinkoff-ai/CORL (written for commit 6afec90) unedited, from a checkout, with
the Python of an environment that has PyTorch. Nothing of this project is imported.

    git clone https://github.com/tinkoff-ai/CORL SOURCE && git -C SOURCE checkout 6afec90
    python3.11 -m venv ENVIRONMENT
    ENVIRONMENT/bin/pip install torch numpy pyrallis tqdm
    ENVIRONMENT/bin/python corl_learner.py --source SOURCE

Its training loop is timed: draw 256 transitions from its replay buffer, one call of `train`.
As there, every loss is read by the host. Environments, evaluation and W&B are left out: its files
import gym, d4rl and wandb, which are empty modules here. Networks and optimizers are made as in its
`train` functions, with PyTorch's own number of threads.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

OBSERVATION_SIZE, ACTION_SIZE = 17, 6  # HalfCheetah's
BATCH, RATE = 256, 3e-4
WARM_UP_UPDATES = 50


def load(source: Path, name: str) -> ModuleType:
    """One of its single-file algorithms, as a module."""
    for missing in ("gym", "d4rl", "wandb"):
        sys.modules.setdefault(missing, ModuleType(missing))
    sys.modules["gym"].Env = object  # used in type annotations
    path = source / "algorithms" / "offline" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"corl_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def adam(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=RATE)


def td3_bc(corl: ModuleType, device: str) -> Any:
    actor = corl.Actor(OBSERVATION_SIZE, ACTION_SIZE, 1.0).to(device)
    first, second = (corl.Critic(OBSERVATION_SIZE, ACTION_SIZE).to(device) for _ in range(2))
    return corl.TD3_BC(
        1.0, actor, adam(actor), first, adam(first), second, adam(second), device=device
    )


def iql(corl: ModuleType, device: str) -> Any:
    actor = corl.GaussianPolicy(OBSERVATION_SIZE, ACTION_SIZE, 1.0).to(device)
    critics = corl.TwinQ(OBSERVATION_SIZE, ACTION_SIZE).to(device)
    value = corl.ValueFunction(OBSERVATION_SIZE).to(device)
    return corl.ImplicitQLearning(
        1.0, actor, adam(actor), critics, adam(critics), value, adam(value), device=device
    )


TRAINERS: dict[str, Callable[[ModuleType, str], Any]] = {"td3_bc": td3_bc, "iql": iql}


def filled(corl: ModuleType, rows: int, device: str) -> Any:
    """Its replay buffer with random transitions."""
    rng = np.random.default_rng(0)
    data = {
        "observations": rng.normal(size=(rows, OBSERVATION_SIZE)),
        "actions": rng.uniform(-1, 1, (rows, ACTION_SIZE)),
        "rewards": rng.normal(size=rows),
        "next_observations": rng.normal(size=(rows, OBSERVATION_SIZE)),
        "terminals": np.zeros(rows),
    }
    buffer = corl.ReplayBuffer(OBSERVATION_SIZE, ACTION_SIZE, rows, device)
    with contextlib.redirect_stdout(io.StringIO()):
        buffer.load_d4rl_dataset(data)
    return buffer


def rates(trainer: Any, buffer: Any, updates: int, repeats: int, device: str) -> list[float]:
    """Updates per second of each of `repeats` repeats, after the warm-up."""
    found = []
    for count in [WARM_UP_UPDATES] + [updates] * repeats:
        began = time.perf_counter()
        for _ in range(count):
            log = trainer.train([part.to(device) for part in buffer.sample(BATCH)])
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(count / (time.perf_counter() - began))
    if not all(np.isfinite(value) for value in log.values()):
        raise RuntimeError(f"The losses are {log}: such updates cannot be compared.")
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="checkout of tinkoff-ai/CORL")
    parser.add_argument("--updates", type=int, default=200, help="updates per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="timed repeats")
    parser.add_argument(
        "--rows", type=int, default=200_000, help="transitions in the replay buffer"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {}
    for name, build in TRAINERS.items():
        corl = load(arguments.source.resolve(), name)
        trainer = build(corl, arguments.device)
        buffer = filled(corl, arguments.rows, arguments.device)
        result[name] = rates(
            trainer, buffer, arguments.updates, arguments.repeats, arguments.device
        )
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(result | versions | {"device": arguments.device}), flush=True)


if __name__ == "__main__":
    main()
