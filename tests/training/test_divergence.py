"""A loss that is lost: which windows it was, and how a stage goes on from its last checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from worldmodel.config import LoggingOptions, StageOptions, TrainingOptions
from worldmodel.data.loader import make_loader
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories, split
from worldmodel.data.windows import Window
from worldmodel.errors import DivergenceError
from worldmodel.nn.learner import Metrics, TrainState, apply_gradients, create_train_state
from worldmodel.runs.checkpoints import digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.system.signals import Preempted, StopRequest
from worldmodel.training.dispatch import Stage
from worldmodel.training.divergence import Diverged, check_finite
from worldmodel.training.loop import Run, run_stage
from worldmodel.training.metrics import WandB

EPISODES, ROWS, BATCH = 30, 6, 4
STAGE = StageOptions(steps=16, batch_size=BATCH, window=ROWS)
TRAINING = TrainingOptions(world_model=STAGE, steps_per_dispatch=2, log_every=2, checkpoint_every=4)
BAD = 7  # the episode with values that are finite, but not when squared


def logs(every: bool = False) -> Trajectories:
    """Episodes that are a window each, of random numbers; one is extreme, or `every` one."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(EPISODES, ROWS, 2)).astype(np.float32)
    rows[slice(None) if every else BAD, 3, 0] = 3e38
    actions = np.zeros((EPISODES * ROWS, 1), np.float32)
    bounds = ActionSpec(False, 1, (-1.0,), (1.0,))
    lengths, ended = np.full(EPISODES, ROWS), np.zeros(EPISODES, bool)
    x = {"x": rows.reshape(-1, 2)}
    return Trajectories(x, actions, None, lengths, ended, bounds, "made.npz")


class Line:
    """Predicts the second column from the first, with some noise: a learner that compiles fast."""

    definitions: dict = {}
    optimizer = optax.sgd(1e-2)

    def init(self, key: jax.Array) -> TrainState:
        return create_train_state({"line": {"slope": jax.random.normal(key)}}, self.optimizer)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def loss(params: dict) -> jax.Array:
            x = batch.observation["x"] + 0.1 * jax.random.normal(key, batch.observation["x"].shape)
            return jnp.square(params["line"]["slope"] * x[..., 0] - x[..., 1]).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        state, metrics = apply_gradients(state, grads, self.optimizer)
        return state, metrics | {"loss/total": value}


def train(
    folder: Path, how: str, trajectories: Trajectories | None = None, stop: bool = False
) -> TrainState | None:
    """Runs the stage; with `stop`, only to the end of its first call to the device."""
    folder.mkdir(exist_ok=True)
    batches = make_loader(trajectories or logs(), BATCH, ROWS, 0)
    request = StopRequest()
    request.stop_requested = stop
    wandb = WandB(LoggingOptions(wandb="disabled"), folder, {})
    training = replace(TRAINING, on_divergence=how)
    run = Run(RunDirectory(folder), training, 0, wandb, request, "none")
    try:
        return run_stage(Stage("world_model", Line(), batches, STAGE), run)
    except Preempted:
        return None
    finally:
        request.close()


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_first_step_that_is_not_finite_is_named_by_its_loss() -> None:
    values = np.array([1.0, 2.0, np.inf, np.nan])
    metrics = {"a": np.array([1.0, 2.0, 3.0, np.nan]), "b": values, "loss/total": values}
    with pytest.raises(Diverged, match="loss/total is inf at step 103"):
        check_finite(104, metrics)
    check_finite(104, {"a": np.ones(4)})


def test_a_stop_names_the_windows_of_the_batch(tmp_path: Path) -> None:
    trajectories, _ = split(logs(), 0.2)
    with pytest.raises(DivergenceError, match="loss/total is inf at step") as raised:
        train(tmp_path, "stop", trajectories)
    assert "from made.npz:" in str(raised.value)
    assert f"\n  episode {BAD}, rows 0-5" in str(raised.value)
    (event,) = lines(tmp_path, "divergences.jsonl")
    assert len(event["windows"]) == BATCH and event["outcome"] == "stopped"
    assert event["checkpoint"] == max(range(0, event["step"], 4))
    assert not (tmp_path / "checkpoints" / "world_model" / str(event["step"])).exists()


def test_a_rollback_goes_on_with_other_batches_and_resumes_in_the_same_bits(
    tmp_path: Path,
) -> None:
    whole = train(tmp_path / "whole", "rollback")
    events = lines(tmp_path / "whole", "divergences.jsonl")
    assert [event["outcome"] for event in events] == ["rolled back"] * len(events) and events
    assert np.isfinite(whole.params["line"]["slope"])
    steps = [row["step"] for row in lines(tmp_path / "whole", "metrics.jsonl")]
    assert steps == list(range(2, 18, 2))

    parts = tmp_path / "parts"
    starts = 1
    while (state := train(parts, "rollback", stop=True)) is None:
        starts += 1
    assert starts >= STAGE.steps // 2 and digest(state) == digest(whole)
    rows = [lines(tmp_path / name, "metrics.jsonl") for name in ("whole", "parts")]
    assert [[r["step"], r["loss/total"]] for r in rows[0]] == [
        [r["step"], r["loss/total"]] for r in rows[1]
    ]


def test_what_does_not_get_better_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match="after 3 rollbacks"):
        train(tmp_path, "rollback", logs(every=True))
    events = lines(tmp_path, "divergences.jsonl")
    assert [event["outcome"] for event in events] == ["rolled back"] * 3 + ["stopped"]
    batches = [tuple(event["windows"]) for event in events]
    assert len(set(batches)) == 4  # other ones each time
