"""The one training loop: any learner, any batches, over every device.

Metrics are read one call late, so the device never waits for the host. The key of step k is
fold_in(seed, k) and its batch a function of (seed, k): the state and the step number are all that
is needed to go on, bit for bit.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from worldmodel.config import TrainingOptions
from worldmodel.nn.learner import TrainState
from worldmodel.runs.best import best_metric_from, check_metric
from worldmodel.runs.checkpoints import Checkpoints, digest
from worldmodel.runs.directory import RunDirectory
from worldmodel.status.heartbeat import NO_HEARTBEAT, Heartbeat
from worldmodel.system.signals import Preempted, StopRequest
from worldmodel.training import mesh as meshes
from worldmodel.training.dispatch import (
    Programs,
    RolloutUpdate,
    Stage,
    make_dispatch,
    make_rollout_update,
    stage_keys,
    steps_per_dispatch,
)
from worldmodel.training.divergence import MAX_ROLLBACKS, Diverged, DivergenceEvent, check_finite
from worldmodel.training.metrics import IntervalMean, MetricsFile, WandB
from worldmodel.training.progress import StageProgress


class Run(NamedTuple):
    """What the stages of one run share."""

    directory: RunDirectory
    training: TrainingOptions
    seed: int
    wandb: WandB
    stop: StopRequest
    progress: str
    heartbeat: Heartbeat = NO_HEARTBEAT


def run_stage(stage: Stage, run: Run) -> TrainState:
    """Trains the stage to its end, from its newest checkpoint if there is one.

    Raises Preempted after saving when asked to stop, DivergenceError when a loss is no longer
    finite and going back to a checkpoint was not asked for, or did not help.
    """
    mesh = meshes.all_devices(run.training.fsdp_shards)
    folder = run.directory.checkpoints(stage.name)
    checkpoints = Checkpoints(folder, run.training.max_to_keep, best_metric_from(stage.options))
    try:
        return _Loop(stage, run, mesh, checkpoints).run()
    finally:
        checkpoints.close()
        stage.close()


class _Loop:
    """The state of one stage's loop on the host."""

    def __init__(self, stage: Stage, run: Run, mesh: jax.sharding.Mesh, checkpoints: Checkpoints):
        self.stage, self.context, self.mesh, self.checkpoints = stage, run, mesh, checkpoints
        self.keys = stage_keys(run.seed, stage.name)
        self.file = MetricsFile(run.directory.metrics, run.directory.is_writer)
        self.heartbeat, self.rollbacks = run.heartbeat, 0
        self.heartbeat.enter("start", stage=stage.name, total=stage.options.steps)
        self.earlier_seconds = self._go_on_from_checkpoint().get("seconds", 0.0)
        self.started = time.perf_counter()

    def _go_on_from_checkpoint(self) -> dict[str, Any]:
        """Takes up the newest state there is; returns what was saved beside it."""
        self.state, self.step, meta = self._restore_or_init()
        self.file.rewind(self.stage.name, self.step)
        self.interval = IntervalMean(meta.get("pending"), meta.get("metrics"))
        self.row_started, self.row_step, self.waited = time.perf_counter(), self.step, 0.0
        self._skip(meta.get("skipped", 0))
        return meta

    def _skip(self, batches: int) -> None:
        """Step k takes the batch of step k + `batches`, and noise of its own."""
        self.skipped, self.key = batches, self.keys.steps
        if batches:
            self.key = jax.random.fold_in(self.keys.steps, batches)

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
        most = self.stage.batches.max_updates_per_call
        updates = steps_per_dispatch(self.context.training, total, most, self.stage.interval)
        if self.step:
            self.progress.note(f"goes on from step {self.step}")
        programs = self._compile(updates)
        self.started = self.row_started = time.perf_counter()
        self.heartbeat.enter("training", step=self.step)
        with self.context.stop.deferred(forward_to_jax=jax.process_count() > 1):
            while self.step < total:
                try:
                    self._update(total, programs)
                except Diverged as seen:
                    self._roll_back(seen)
                    self.feed = self._feed(updates)
            self.checkpoints.wait()

    def _compile(self, updates: int) -> Programs:
        batches, refresh = self.stage.batches, self.stage.refresh
        self.heartbeat.enter("loading data", step=self.step)
        began = time.perf_counter()
        arrays = meshes.put_feed(batches.arrays(), None, self.mesh)
        dispatch = make_dispatch(self.stage.learner, batches, self.mesh, updates, self.shardings)
        self.feed = self._feed(updates)
        renew = make_rollout_update(refresh, self.mesh, self.shardings) if refresh else None
        self.heartbeat.enter("compiling")
        lowered = dispatch.lower(self.state, arrays, self.feed, self.key)
        check_metric(best_metric_from(self.stage.options), self.stage.group, lowered.out_info[1])
        compiled = lowered.compile()
        self.progress.note(f"compiled in {time.perf_counter() - began:.1f} s")
        return Programs(compiled, renew, arrays, updates)

    def _update(self, total: int, programs: Programs) -> None:
        """Calls the device until the stage is complete.

        Raises Preempted when the state is saved, Diverged.
        """
        refresh, updates, previous = self.stage.refresh, programs.updates, None
        while self.step < total:
            if refresh and self.step % refresh.every == 0:
                self._refresh(refresh, programs)
            self.state, metrics = programs.dispatch(
                self.state, programs.arrays, self.feed, self.key
            )
            self.step += updates
            if self.step < total:  # made and sent while the device works
                began = time.perf_counter()
                self.feed = self._feed(updates)
                self.waited += time.perf_counter() - began
            if previous is not None:
                self._record(self.step - updates, previous)
            previous = metrics
            due = self.step % self.context.training.checkpoint_every == 0 or self.step == total
            stop = self._stops(updates)
            if due or stop:
                self._record(self.step, previous)
                previous = None
                self._save()
            if stop and self.step < total:
                self.heartbeat.enter("saving")
                self.checkpoints.wait()
                raise Preempted(f"{self.stage.name} saved at step {self.step}")

    def _stops(self, updates: int) -> bool:
        """Whether to leave after this call. Of several processes all do after the same one, which
        JAX finds out; it wants the number of the call.
        """
        if jax.process_count() == 1:
            return self.context.stop.stop_requested
        return multihost_utils.reached_preemption_sync_point(self.step // updates)

    def _roll_back(self, seen: Diverged) -> None:
        """Goes on from the last checkpoint with the batches after those of the call that diverged.
        Raises DivergenceError where this is not wanted, or did not help.
        """
        self.checkpoints.wait()
        at, batches = self._regular_before(seen.step), self.stage.batches
        windows = batches.describe_windows(seen.step - 1 + self.skipped)
        event = DivergenceEvent(self.stage.name, seen, windows, batches.trajectories.source, at)
        wanted = self.context.training.on_divergence == "rollback"
        if not wanted or self.rollbacks == MAX_ROLLBACKS:
            event.note(self.context.directory, "stopped")
            raise event.error(self.stage.group, wanted)
        event.note(self.context.directory, "rolled back")
        self.rollbacks += 1
        position = seen.dispatch_end + self.skipped
        for step in self.checkpoints.steps():
            if step > at:
                self.checkpoints.delete(step)
        self._go_on_from_checkpoint()
        self._skip(position - self.step)
        self.progress.note(
            f"{seen}: goes on from step {self.step} with other batches "
            f"(rollback {self.rollbacks} of {MAX_ROLLBACKS} in a row)"
        )

    def _regular_before(self, step: int) -> int:
        """The last regular checkpoint before a step, or the initial state, 0. One that was made
        because the run had to stop counts only where that is gone: the result shall not depend on
        when a run was stopped.
        """
        every, steps = self.context.training.checkpoint_every, self.checkpoints.steps()
        regular = (step - 1) // every * every
        return regular if regular == 0 or regular in steps else max(steps, default=0)

    def _refresh(self, refresh: RolloutUpdate, programs: Programs) -> None:
        """Renews the memory. It is due at a step, not after it: a run that goes on from there has
        not had it yet.
        """
        feed = refresh.batches.feed(self.step // refresh.every + self.skipped, 1)
        feed = meshes.put_feed(feed, refresh.batches.axis, self.mesh)
        # Keys of steps are folded into the other one.
        key = jax.random.fold_in(self.keys.init, self.skipped) if self.skipped else self.keys.init
        self.state = programs.rollout_update(self.state, programs.arrays, feed, key)

    def _feed(self, updates: int) -> Any:
        """What the next call needs, on the devices."""
        feed = self.stage.batches.feed(self.step + self.skipped, updates)
        return meshes.put_feed(feed, self.stage.batches.axis, self.mesh)

    def _record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the metrics of the call that ended at `step`; writes a row where a log interval
        ends.
        """
        values = {name: np.asarray(value) for name, value in metrics.items()}
        check_finite(step, values)
        self.interval.add(values)
        self.progress.advance(step)
        self.heartbeat.update(step=step)
        if step % self.context.training.log_every and step != self.stage.options.steps:
            return
        now = time.perf_counter()
        rate = (step - self.row_step) / (now - self.row_started)
        waiting = self.waited / (now - self.row_started)
        means = self.interval.take()
        row = {"stage": self.stage.name, "step": step, "time": time.time(), **means}
        row |= {"updates_per_second": rate, "data_wait_fraction": waiting}
        self.file.write(row)
        self.context.wandb.write(row)
        loss = sum(
            v for name, v in means.items() if name in ("loss/total", "loss/actor", "loss/critic")
        )
        self.progress.row(step, loss, rate, waiting)
        self.heartbeat.update(rate=rate)
        self.row_started, self.row_step, self.waited = now, step, 0.0

    def _save(self) -> None:
        seconds = self.earlier_seconds + time.perf_counter() - self.started
        meta = {"stage": self.stage.name, "pending": self.interval.saved(), "seconds": seconds}
        meta |= {"metrics": self.interval.latest, "skipped": self.skipped}
        self.checkpoints.save(self.step, self.state, meta)
        self.rollbacks = 0

    def _restore_or_init(self) -> tuple[TrainState, int, dict[str, Any]]:
        shapes = jax.eval_shape(self.stage.learner.init, self.keys.init)
        self.shardings = meshes.state_shardings(shapes, self.mesh)
        steps = self.checkpoints.steps()
        if not steps:
            return jax.device_put(self.stage.learner.init(self.keys.init), self.shardings), 0, {}
        like = meshes.with_shardings(shapes, self.shardings)
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
            "state_sha256": digest(meshes.replicate(self.state, self.mesh)),
        }
        self.context.directory.write_summary(self.stage.name, entry)
