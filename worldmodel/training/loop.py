"""The one training loop: any learner, any batches, over every device.

Many updates run per call to the device (`lax.scan`); the state's buffers are donated; metrics are
read one call late, so the device never waits for the host. The key of step k is fold_in(seed, k)
and its batch a function of (seed, k): the state and the step number are all that is needed to go
on, bit for bit.
"""

from __future__ import annotations

import math
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel.config import StageOptions, TrainingOptions
from worldmodel.data.delivery import Batches
from worldmodel.data.windows import Window
from worldmodel.errors import DivergenceError
from worldmodel.learner import Learner, TrainState
from worldmodel.run_directory import RunDirectory
from worldmodel.training import mesh as meshes
from worldmodel.training.best import best_of, check_metric
from worldmodel.training.checkpoints import Checkpoints, digest
from worldmodel.training.metrics import IntervalMean, MetricsFile, WandB
from worldmodel.training.progress import StageProgress


class Preempted(Exception):
    """The run was asked to stop and has saved its state."""


@dataclass(frozen=True)
class Refresh:
    """What renews a learner's memory: every so many updates, from a batch of its own."""

    every: int
    apply: Callable[[TrainState, Window, jax.Array], TrainState]
    batches: Batches


@dataclass(frozen=True)
class Stage:
    """A learner, its batches and how long it trains."""

    name: str
    learner: Learner
    batches: Batches
    options: StageOptions
    refresh: Refresh | None = None

    @property
    def group(self) -> str:
        """Of its options: a joint stage has the world model's settings."""
        return f"training.{'world_model' if self.name == 'joint' else self.name}"

    @property
    def interval(self) -> int:
        """Updates between refreshes, 0 without any."""
        return self.refresh.every if self.refresh else 0


class StopRequest:
    """Notes SIGTERM and SLURM's warning signals, to be obeyed between two calls to the device."""

    def __init__(self) -> None:
        self.asked = False
        numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self.earlier = {number: signal.signal(number, self._note) for number in numbers}

    def close(self) -> None:
        """From here on the signals do what they did before."""
        for number, handler in self.earlier.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class Keys(NamedTuple):
    """Of a stage's initial parameters, and the one that step numbers are folded into."""

    init: jax.Array
    steps: jax.Array


def stage_keys(seed: int, stage: str) -> Keys:
    return Keys(
        *jax.random.split(jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode())))
    )


def steps_per_dispatch(
    training: TrainingOptions, steps: int, most: int = 2**31, refresh_every: int = 0
) -> int:
    """The most updates per call, up to `most`, that divide the stage and the intervals of log,
    checkpoint and refresh alike.

    So one compiled program serves the whole stage.
    """
    common = math.gcd(steps, training.log_every, training.checkpoint_every, refresh_every)
    most = min(common, training.steps_per_dispatch, most)
    return max(n for n in range(1, most + 1) if common % n == 0)


def make_dispatch(
    learner: Learner, batches: Batches, mesh: jax.sharding.Mesh, updates: int
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted function (state, arrays, feed, key) -> (state, metrics (updates,)) that donates the
    state.
    """

    def dispatch(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> Any:
        def one(state: TrainState, k: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
            batch = meshes.shard_batch(batches.batch(arrays, feed, k), mesh)
            return learner.update(state, batch, jax.random.fold_in(key, state.step))

        return jax.lax.scan(one, state, jnp.arange(updates, dtype=jnp.uint32))

    return jax.jit(dispatch, donate_argnums=0, out_shardings=meshes.replicated(mesh))


def make_refresh(refresh: Refresh, mesh: jax.sharding.Mesh) -> Callable[..., TrainState]:
    """A jitted function (state, arrays, feed, key) -> state that donates the state."""

    def apply(state: TrainState, arrays: Any, feed: Any, key: jax.Array) -> TrainState:
        windows = meshes.shard_batch(refresh.batches.batch(arrays, feed, jnp.uint32(0)), mesh)
        return refresh.apply(state, windows, jax.random.fold_in(key, state.step))

    return jax.jit(apply, donate_argnums=0, out_shardings=meshes.replicated(mesh))


class Run(NamedTuple):
    """What the stages of one run share."""

    directory: RunDirectory
    training: TrainingOptions
    seed: int
    wandb: WandB
    stop: StopRequest
    progress: str


def run_stage(stage: Stage, run: Run) -> TrainState:
    """Trains the stage to its end, from its newest checkpoint if there is one.

    Raises Preempted after saving when asked to stop, DivergenceError when a loss is no longer
    finite.
    """
    mesh = meshes.all_devices()
    folder = run.directory.checkpoints(stage.name)
    checkpoints = Checkpoints(folder, run.training.keep, best_of(stage.options))
    try:
        return _Loop(stage, run, mesh, checkpoints).run()
    finally:
        checkpoints.close()
        stage.batches.close()
        if stage.refresh:
            stage.refresh.batches.close()


class _Loop:
    """The state of one stage's loop on the host."""

    def __init__(self, stage: Stage, run: Run, mesh: jax.sharding.Mesh, checkpoints: Checkpoints):
        self.stage, self.context, self.mesh, self.checkpoints = stage, run, mesh, checkpoints
        self.keys = stage_keys(run.seed, stage.name)
        self.file = MetricsFile(run.directory.metrics)
        self.state, self.step, meta = self._restore_or_init()
        self.file.rewind(stage.name, self.step)
        self.interval = IntervalMean(meta.get("pending"), meta.get("metrics"))
        self.earlier_seconds = meta.get("seconds", 0.0)
        self.started = self.row_started = time.perf_counter()
        self.waited = 0.0
        self.row_step = self.step

    def run(self) -> TrainState:
        total = self.stage.options.steps
        with StageProgress(
            self.stage.name, total, self.step, self.context.progress
        ) as self.progress:
            if self.step < total:
                self._train(total)
            else:
                self.progress.note(f"is complete at step {self.step}")
        self.checkpoints.wait()
        self._summarize()
        return self.state

    def _train(self, total: int) -> None:
        batches = self.stage.batches
        refresh = self.stage.refresh
        updates = steps_per_dispatch(
            self.context.training, total, batches.most_updates, self.stage.interval
        )
        if self.step:
            self.progress.note(f"goes on from step {self.step}")
        began = time.perf_counter()
        arrays = jax.device_put(batches.arrays(), meshes.replicated(self.mesh))
        dispatch = make_dispatch(self.stage.learner, batches, self.mesh, updates)
        feed = self._feed(updates)
        renew = make_refresh(refresh, self.mesh) if refresh else None
        lowered = dispatch.lower(self.state, arrays, feed, self.keys.steps)
        check_metric(best_of(self.stage.options), self.stage.group, lowered.out_info[1])
        compiled = lowered.compile()
        self.progress.note(f"compiled in {time.perf_counter() - began:.1f} s")
        self.started = self.row_started = time.perf_counter()
        previous = None
        while self.step < total:
            if refresh and self.step % refresh.every == 0:
                self._refresh(refresh, renew, arrays)
            self.state, metrics = compiled(self.state, arrays, feed, self.keys.steps)
            self.step += updates
            if self.step < total:  # made and sent while the device works
                began = time.perf_counter()
                feed = self._feed(updates)
                self.waited += time.perf_counter() - began
            if previous is not None:
                self._record(self.step - updates, previous)
            previous = metrics
            due = self.step % self.context.training.checkpoint_every == 0 or self.step == total
            if due or self.context.stop.asked:
                self._record(self.step, previous)
                previous = None
                self._save()
            if self.context.stop.asked and self.step < total:
                self.checkpoints.wait()
                raise Preempted(f"{self.stage.name} saved at step {self.step}")

    def _refresh(self, refresh: Refresh, renew: Callable[..., TrainState], arrays: Any) -> None:
        """Renews the memory. It is due at a step, not after it: a run that goes on from there has
        not had it yet.
        """
        feed = refresh.batches.feed(self.step // refresh.every, 1)
        feed = meshes.place_feed(feed, refresh.batches.axis, self.mesh)
        # Keys of steps are folded into the other one.
        self.state = renew(self.state, arrays, feed, self.keys.init)

    def _feed(self, updates: int) -> Any:
        """What the next call needs, on the devices."""
        feed = self.stage.batches.feed(self.step, updates)
        return meshes.place_feed(feed, self.stage.batches.axis, self.mesh)

    def _record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the metrics of the call that ended at `step`; writes a row where a log interval
        ends.
        """
        values = {name: np.asarray(value) for name, value in metrics.items()}
        self._check_finite(step, values)
        self.interval.add(values)
        self.progress.advance(step)
        if step % self.context.training.log_every and step != self.stage.options.steps:
            return
        now = time.perf_counter()
        rate = (step - self.row_step) / (now - self.row_started)
        waiting = self.waited / (now - self.row_started)
        means = self.interval.take()
        row = {"stage": self.stage.name, "step": step, "time": time.time(), **means}
        row |= {"updates_per_second": rate, "waiting_for_data": waiting}
        self.file.write(row)
        self.context.wandb.write(row)
        loss = sum(
            v for name, v in means.items() if name in ("loss/total", "loss/actor", "loss/critic")
        )
        self.progress.row(step, loss, rate, waiting)
        self.row_started, self.row_step, self.waited = now, step, 0.0

    def _check_finite(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        for name, values in metrics.items():
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                self.checkpoints.wait()
                kept = self.checkpoints.steps()
                raise DivergenceError(
                    f"{self.stage.name}: {name} is {values[bad[0]]} at step "
                    f"{step - len(values) + int(bad[0]) + 1}. Training stopped; "
                    f"the last good checkpoint is {kept[-1] if kept else 'none yet'}.\n"
                    f"A lower {self.stage.group}.learning_rate, or float32, may help."
                )

    def _save(self) -> None:
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        meta = {"stage": self.stage.name, "pending": self.interval.saved(), "seconds": seconds}
        meta["metrics"] = self.interval.latest
        self.checkpoints.save(self.step, self.state, meta)

    def _restore_or_init(self) -> tuple[TrainState, int, dict[str, Any]]:
        steps = self.checkpoints.steps()
        if not steps:
            state = self.stage.learner.init(self.keys.init)
            return jax.device_put(state, meshes.replicated(self.mesh)), 0, {}
        shapes = jax.eval_shape(self.stage.learner.init, self.keys.init)
        like = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=meshes.replicated(self.mesh)),
            shapes,
        )
        state, meta = self.checkpoints.restore(steps[-1], like)
        return state, steps[-1], meta

    def _summarize(self) -> None:
        existing = self.context.directory.summary().get("stages", {}).get(self.stage.name)
        if existing and existing["last_step"] == self.step:
            return
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        entry = {
            "last_step": self.step,
            "wall_seconds": seconds,
            "updates_per_second": self.step / seconds,
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "state_sha256": digest(self.state),
        }
        self.context.directory.write_summary(self.stage.name, entry)
