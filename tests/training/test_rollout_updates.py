"""A stage that adds imagined rollouts every few updates resumes in the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import read_rows, small_config, train_stage

from worldmodel.config import StageOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.policies.bc import BCOptions
from worldmodel.runs.checkpoints import digest
from worldmodel.system.signals import Preempted
from worldmodel.training.plan import StagePlan, plan_stages

STEPS, ROLLOUT_EVERY, UPDATES_PER_CALL, HORIZON = 8, 4, 2, 2


def plan_of(trajectories: Trajectories) -> StagePlan:
    config = small_config(
        EnsembleOptions(num_members=3, num_elites=2, units=8, layers=1, termination="never"),
        StageOptions(steps=STEPS, batch_size=4, window=2, learning_rate=1e-3, warmup_steps=0),
        policy=BCOptions(
            units=8,
            layers=1,
            real_ratio=0.5,
            rollout_batch_size=6,
            horizon=HORIZON,
            rollout_every=ROLLOUT_EVERY,
            rollout_retain=2,
        ),
    )
    return replace(
        plan_stages(config, trajectories.spec())["policy"],
        steps_per_dispatch=UPDATES_PER_CALL,
        log_every=STEPS,
        checkpoint_every=STEPS,
    )


def last_row(folder: Path) -> dict:
    prefixes = ("loss/", "policy/", "imagined/")
    return {k: v for k, v in read_rows(folder)[-1].items() if k.startswith(prefixes)}


def test_a_stage_stopped_between_rollouts_and_where_they_are_due_ends_in_the_same_bits(
    tmp_path: Path, pendulum: Trajectories
) -> None:
    plan, stopped = plan_of(pendulum), tmp_path / "stopped"
    whole = train_stage(plan, tmp_path / "whole", pendulum)
    for step in (2, 4):  # rollouts are due at the second one, before the update that follows
        with pytest.raises(Preempted):
            train_stage(plan, stopped, pendulum, stop=True)
        assert (stopped / "checkpoints" / "policy" / str(step)).is_dir()
    resumed = train_stage(plan, stopped, pendulum)
    assert digest(resumed) == digest(whole)
    assert int(whole.replay_buffer.refreshes) == STEPS // ROLLOUT_EVERY
    first, second = np.asarray(whole.replay_buffer.data.features)[:, ::HORIZON]
    assert not np.array_equal(first, second)  # each starts from different logged states
    assert last_row(stopped) == last_row(tmp_path / "whole")
