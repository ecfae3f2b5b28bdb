"""The training loop: any learner, any batches, over every device.

Metrics are read one call late, so the device never waits for the host. The key of step k is
fold_in(seed, k) and its batch a function of (seed, k), so the state and the step number are all
that is needed to resume with bit-identical results.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from worldmodel.nn.learner import TrainState
from worldmodel.runs.best import check_metric
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
)
from worldmodel.training.divergence import MAX_ROLLBACKS, Diverged, DivergenceEvent, check_finite
from worldmodel.training.metrics import IntervalMean, MetricsFile, WandB
from worldmodel.training.progress import StageProgress


@dataclass(frozen=True)
class RunContext:
    """What the stages of a run share."""

    directory: RunDirectory
    mesh: jax.sharding.Mesh
    stop: StopRequest
    wandb: WandB
    progress: str = "none"  # style of the progress display, see `StageProgress`
    heartbeat: Heartbeat = NO_HEARTBEAT


def run_stage(stage: Stage, context: RunContext) -> TrainState:
    """Trains the stage to its end, from its newest checkpoint if there is one.

    Raises Preempted after saving when asked to stop, and DivergenceError when a loss is no longer
    finite and rollbacks are not enabled, or did not help, and StorageError when the run's folder is
    full, moved or deleted.
    """
    folder = context.directory.checkpoints(stage.plan.name)
    checkpoints = Checkpoints(folder, stage.plan.max_to_keep, stage.plan.best)
    try:
        with closing(stage), closing(checkpoints):
            return _StageLoop(stage, context, checkpoints).run()
    except Exception:
        context.directory.check_in_place()  # where the folder is gone, that is the reason
        raise


class _StageLoop:
    """The state of a stage's loop on the host."""

    def __init__(self, stage: Stage, context: RunContext, checkpoints: Checkpoints):
        self.stage, self.context, self.checkpoints = stage, context, checkpoints
        self.plan, self.mesh, self.heartbeat = stage.plan, context.mesh, context.heartbeat
        self.keys = stage_keys(self.plan.seed, self.plan.name)
        self.metrics_file = MetricsFile(context.directory.metrics, context.directory.is_writer)
        self.rollbacks = 0
        self.heartbeat.enter("start", stage=self.plan.name, total=self.plan.steps)
        self.earlier_seconds = self._resume().get("seconds", 0.0)
        self.started = time.perf_counter()

    def _resume(self) -> dict[str, Any]:
        """Continues from the newest checkpoint, or starts; returns the checkpoint's metadata."""
        self.state, self.step, meta = self._restore_or_init()
        self.metrics_file.rewind(self.plan.name, self.step)
        self.interval = IntervalMean(meta.get("pending"), meta.get("metrics"))
        self.row_started, self.row_step, self.waited = time.perf_counter(), self.step, 0.0
        self._skip(meta.get("skipped", 0))
        return meta

    def _restore_or_init(self) -> tuple[TrainState, int, dict[str, Any]]:
        shapes = jax.eval_shape(self.stage.learner.init, self.keys.init)
        self.shardings = meshes.state_shardings(shapes, self.mesh)
        steps = self.checkpoints.steps()
        if not steps:
            return jax.device_put(self.stage.learner.init(self.keys.init), self.shardings), 0, {}
        like = meshes.with_shardings(shapes, self.shardings)
        state, meta = self.checkpoints.restore(steps[-1], like)
        return state, steps[-1], meta

    def _skip(self, batches: int) -> None:
        """Step k takes the batch of step k + `batches`, and noise of its own."""
        self.skipped, self.key = batches, self.keys.steps
        if batches:
            self.key = jax.random.fold_in(self.keys.steps, batches)

    def run(self) -> TrainState:
        with StageProgress(
            self.plan.name, self.plan.steps, self.step, self.context.progress
        ) as self.progress:
            if self.step < self.plan.steps:
                self._train()
            else:
                self.progress.note(f"already complete at step {self.step}")
        self.checkpoints.wait()
        self._summarize()
        return self.state

    def _train(self) -> None:
        if self.step:
            self.progress.note(f"resuming from step {self.step}")
        programs = self._compile()
        self.started = self.row_started = time.perf_counter()
        self.heartbeat.enter("training", step=self.step)
        with self.context.stop.deferred(forward_to_jax=jax.process_count() > 1):
            while self.step < self.plan.steps:
                try:
                    self._update(programs)
                except Diverged as divergence:
                    self._roll_back(divergence)
                    self.feed = self._make_feed(programs.updates)
            self.checkpoints.wait()

    def _compile(self) -> Programs:
        batches, rollout_update = self.stage.batches, self.stage.rollout_update
        updates = self.stage.updates_per_dispatch
        self.heartbeat.enter("loading data", step=self.step)
        began = time.perf_counter()
        arrays = meshes.put_feed(batches.arrays(), None, self.mesh)
        dispatch = make_dispatch(self.stage.learner, batches, self.mesh, updates, self.shardings)
        self.feed = self._make_feed(updates)
        refill = rollout_update and make_rollout_update(rollout_update, self.mesh, self.shardings)
        self.heartbeat.enter("compiling")
        lowered = dispatch.lower(self.state, arrays, self.feed, self.key)
        check_metric(self.plan.best, self.plan.group, lowered.out_info[1])
        compiled = lowered.compile()
        self.progress.note(f"compiled in {time.perf_counter() - began:.1f} s")
        return Programs(compiled, refill, arrays, updates)

    def _update(self, programs: Programs) -> None:
        """Calls the device until the stage is complete.

        Raises Preempted when the state is saved, and Diverged.
        """
        updates, previous = programs.updates, None
        while self.step < self.plan.steps:
            self._refill_replay_buffer(programs)
            self.state, metrics = programs.dispatch(
                self.state, programs.arrays, self.feed, self.key
            )
            self.step += updates
            complete = self.step >= self.plan.steps
            if not complete:  # while the device computes
                began = time.perf_counter()
                self.feed = self._make_feed(updates)
                self.waited += time.perf_counter() - began
            if previous is not None:
                self._record(self.step - updates, previous)
            previous = metrics
            stop = self._stop_requested(updates)
            if stop or complete or self.step % self.plan.checkpoint_every == 0:
                self._record(self.step, previous)
                previous = None
                self._save()
            if stop and not complete:
                self.heartbeat.enter("saving")
                self.checkpoints.wait()
                raise Preempted(f"{self.plan.name} saved at step {self.step}")

    def _stop_requested(self, updates: int) -> bool:
        """Whether to stop after this call. Several processes all stop after the same one, on which
        JAX lets them agree by the number of the call.
        """
        if jax.process_count() == 1:
            return self.context.stop.stop_requested
        return multihost_utils.reached_preemption_sync_point(self.step // updates)

    def _roll_back(self, divergence: Diverged) -> None:
        """Returns to the last checkpoint, to continue with the batches after those of the call that
        diverged. Raises DivergenceError where rollbacks are not enabled, or did not help.
        """
        self.checkpoints.wait()
        last, batches = self._last_regular_checkpoint(divergence.step), self.stage.batches
        event = DivergenceEvent(
            stage=self.plan.name,
            divergence=divergence,
            windows=batches.describe_windows(divergence.step - 1 + self.skipped),
            source=batches.trajectories.source,
            checkpoint=last,
        )
        if not self.plan.rollback or self.rollbacks == MAX_ROLLBACKS:
            event.write(self.context.directory, "stopped")
            raise event.error(self.plan.group, self.plan.rollback)
        event.write(self.context.directory, "rolled back")
        self.rollbacks += 1
        position = divergence.dispatch_end + self.skipped
        for step in self.checkpoints.steps():
            if step > last:
                self.checkpoints.delete(step)
        self._resume()
        self._skip(position - self.step)
        self.progress.note(
            f"{divergence}: resuming from step {self.step} with other batches "
            f"(rollback {self.rollbacks} of {MAX_ROLLBACKS} in a row)"
        )

    def _last_regular_checkpoint(self, step: int) -> int:
        """The last regular checkpoint before a step, or 0 for the initial state. One that was saved
        because the run had to stop counts only where the regular one is gone: the result does not
        depend on when a run was stopped.
        """
        every, steps = self.plan.checkpoint_every, self.checkpoints.steps()
        regular = (step - 1) // every * every
        return regular if regular == 0 or regular in steps else max(steps, default=0)

    def _refill_replay_buffer(self, programs: Programs) -> None:
        """Where that is due: before an update and not after one, so that a run that resumes at this
        step does it.
        """
        due: RolloutUpdate | None = self.stage.rollout_update
        if due is None or programs.rollout_update is None or self.step % due.every:
            return
        feed = due.batches.feed(self.step // due.every + self.skipped, 1)
        feed = meshes.put_feed(feed, due.batches.axis, self.mesh)
        # Step numbers are folded into the other key.
        key = jax.random.fold_in(self.keys.init, self.skipped) if self.skipped else self.keys.init
        self.state = programs.rollout_update(self.state, programs.arrays, feed, key)

    def _make_feed(self, updates: int) -> Any:
        """What the next call reads, on the devices."""
        feed = self.stage.batches.feed(self.step + self.skipped, updates)
        return meshes.put_feed(feed, self.stage.batches.axis, self.mesh)

    def _record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the metrics of the call that ended at `step`; writes a row at the end of a log
        interval.
        """
        values = {name: np.asarray(value) for name, value in metrics.items()}
        check_finite(step, values)
        self.interval.add(values)
        self.progress.advance(step)
        self.heartbeat.update(step=step)
        if step % self.plan.log_every and step != self.plan.steps:
            return
        now = time.perf_counter()
        rate = (step - self.row_step) / (now - self.row_started)
        waiting = self.waited / (now - self.row_started)
        means = self.interval.pop()
        self.context.directory.check_in_place()
        row = {"stage": self.plan.name, "step": step, "time": time.time(), **means}
        row |= {"updates_per_second": rate, "data_wait_fraction": waiting}
        self.metrics_file.write(row)
        self.context.wandb.write(row)
        losses = ("loss/total", "loss/actor", "loss/critic")
        loss = sum(value for name, value in means.items() if name in losses)
        self.progress.row(step, loss, rate, waiting)
        self.heartbeat.update(rate=rate)
        self.row_started, self.row_step, self.waited = now, step, 0.0

    def _seconds(self) -> float:
        """Of training so far, over all processes that resumed it."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def _save(self) -> None:
        meta = {
            "stage": self.plan.name,
            "pending": self.interval.to_json(),
            "seconds": self._seconds(),
            "metrics": self.interval.latest,
            "skipped": self.skipped,
        }
        self.context.directory.check_in_place()
        self.checkpoints.save(self.step, self.state, meta)
        self.rollbacks = 0

    def _summarize(self) -> None:
        existing = self.context.directory.summary().get("stages", {}).get(self.plan.name)
        if existing and existing["last_step"] == self.step:
            return
        seconds = self._seconds()
        entry = {
            "last_step": self.step,
            "wall_seconds": seconds,
            "updates_per_second": self.step / seconds,
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "state_sha256": digest(meshes.replicate(self.state, self.mesh)),
        }
        self.context.directory.write_summary(self.plan.name, entry)
