"""A stage that imagines its rows anew every few updates goes on in the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from worldmodel.config import Config, LoggingOptions, StageOptions, TrainingOptions
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.trajectories import Trajectories
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.nn.learner import TrainState
from worldmodel.policies.sac_n import SACOptions
from worldmodel.runs.checkpoints import digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.training.loop import Preempted, Run, StopRequest, run_stage
from worldmodel.training.metrics import WandB
from worldmodel.training.run import build_stage
from worldmodel.training.stages import build_learner

STEPS, INTERVAL, CALL = 8, 4, 2  # updates: of the stage, between refreshes, in a call
CONFIG = Config(
    name="test",
    data=GymnasiumData(),
    model=EnsembleOptions(num_members=3, num_elites=2, units=8, layers=1, termination="never"),
    policy=SACOptions(
        units=8,
        layers=1,
        real_ratio=0.5,
        rollout_batch_size=6,
        horizon=2,
        rollout_every=INTERVAL,
        rollout_retain=2,
    ),
    training=TrainingOptions(
        policy=StageOptions(
            steps=STEPS, batch_size=4, window=2, learning_rate=1e-3, warmup_steps=0
        ),
        steps_per_dispatch=CALL,
        log_every=STEPS,
        checkpoint_every=STEPS,
    ),
    logging=LoggingOptions(wandb="disabled"),
)


def train(folder: Path, logs: Trajectories, stop: bool = False) -> TrainState | None:
    """Runs the policy's stage; with `stop`, it is asked to leave during its first call."""
    folder.mkdir(exist_ok=True)
    stage = build_stage(CONFIG, logs, "policy", build_learner(CONFIG, logs.spec(), "policy"))
    request = StopRequest()
    request.stop_requested = stop
    run = Run(
        RunDirectory(folder), CONFIG.training, CONFIG.seed, WandB(CONFIG.logging, folder, {}),
        request, "none",
    )  # fmt: skip
    try:
        return run_stage(stage, run)
    except Preempted:
        return None
    finally:
        request.close()


def last_row(folder: Path) -> dict:
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return {k: v for k, v in row.items() if k.startswith(("loss/", "policy/", "imagined/"))}


def test_a_stage_stopped_between_refreshes_and_where_one_is_due_ends_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    whole = train(tmp_path / "whole", pendulum)
    stopped = tmp_path / "stopped"
    for step in (2, 4):  # a refresh is due at the second, and not done yet
        assert train(stopped, pendulum, stop=True) is None
        assert (stopped / "checkpoints" / "policy" / str(step)).is_dir()
    parts = train(stopped, pendulum)
    assert digest(parts) == digest(whole)
    assert int(whole.replay_buffer.refreshes) == STEPS // INTERVAL
    first, second = np.asarray(whole.replay_buffer.rows.features)[:, :: CONFIG.policy.horizon]
    assert not np.array_equal(first, second)  # each from logged states of its own
    assert last_row(stopped) == last_row(tmp_path / "whole")
