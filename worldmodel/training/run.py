"""A whole run: logs in, stages in order, a report out. The same command again goes on where the
last one ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from worldmodel import data, planning
from worldmodel.config import Config
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.loader import Loader, make_loader
from worldmodel.data.normalization import resolve_normalization
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories, split, split_episodes
from worldmodel.environments import real as environments
from worldmodel.errors import DataError, first_line
from worldmodel.nn.learner import Learner, RolloutLearner
from worldmodel.runs.directory import RunDirectory, check_resumable, open_run, run_lock
from worldmodel.runs.provenance import note_environment
from worldmodel.status.heartbeat import Heartbeat
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.system.signals import Preempted, StopRequest, handle_stop_signals, run_stoppable
from worldmodel.training import distributed
from worldmodel.training.dispatch import RolloutUpdate, Stage
from worldmodel.training.dry_run import dry_run
from worldmodel.training.loop import Run, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB
from worldmodel.training.restore import load_world_model
from worldmodel.training.stages import (
    build_learner,
    modules,
    stage_names,
    stage_options,
    validate_stages,
)


def train(config: Config, evaluate: Callable[[Path], int]) -> int:
    """Runs every stage that is not complete, then the evaluation. Returns the exit status: 75 where
    it was asked to stop, 130 by Ctrl-C, 0 when all is done.

    `evaluate` judges the run in a folder, and returns its exit status.
    """
    return run_stoppable(lambda: _train(config, evaluate))


class PreparedData(NamedTuple):
    """The logs of a run, after all that can be checked before training has been."""

    training: Trajectories
    held_out: Trajectories
    spec: DataSpec
    fingerprint: str
    held_out_episodes: list[int]


def _train(config: Config, evaluate: Callable[[Path], int]) -> int:
    """Of several processes, all train and the first one verbose, writes and judges."""
    began = time.perf_counter()
    enable_compilation_cache(config.training.compilation_cache)
    distributed.initialize(config.training.distributed)
    first = distributed.is_process_zero()
    ready = distributed.process_zero_first(lambda: _prepare(config))
    taken = distributed.all_or_none(lambda: _taken(config, ready.spec))
    if config.training.dry_run:
        names = stage_names(config, ready.spec)
        made = ((name, build_learner(config, ready.spec, name)) for name in names)
        stages = (build_stage(config, ready.training, *stage) for stage in made)
        return dry_run(config, stages, verbose=first)
    directory = distributed.process_zero_first(lambda: _open(config, ready, first))
    if not first:
        quiet = replace(config.logging, wandb="disabled", progress="none")
        config = replace(config, logging=quiet)
    with (
        run_lock(directory),
        handle_stop_signals() as stop,
        watched(directory, stop) as heartbeat,
        closing(WandB(config.logging, directory.path, asdict(config))) as wandb,
    ):
        if first:
            _greet(config, ready.training, ready.held_out, directory.path)
        run = Run(
            directory, config.training, config.seed, wandb, stop, config.logging.progress, heartbeat
        )
        _stages(config, ready.spec, ready.training, taken, run)
        distributed.shutdown()  # judging needs nobody else, however long it lasts
        if not first:
            return 0
        heartbeat.enter("evaluation")
        status = evaluate(directory.path)
    print(f"total {time.perf_counter() - began:.0f} s")
    return status


def _prepare(config: Config) -> PreparedData:
    """Reads the logs and checks all that can be, before anything is written."""
    check_resumable(config)  # before the logs are read
    trajectories = data.load(config.data)
    training, held_out = split(trajectories, config.data.holdout)
    spec = training.spec(resolve_normalization(config.data, training))
    validate_stages(config, spec, all_devices(config.training.fsdp_shards))
    planning.validate(config.evaluation.planner, spec)
    acting = config.policy.name != "none" or config.evaluation.planner.kind != "none"
    if acting and config.data.environment is not None:
        environments.check_environment(config.data.environment, spec)
    if config.evaluation.data is not None:
        conform_to_spec(data.load(evaluation_data_options(config)), spec)
    _, episodes = split_episodes(trajectories.num_episodes, config.data.holdout)
    return PreparedData(training, held_out, spec, trajectories.fingerprint(), episodes.tolist())


def _open(config: Config, ready: PreparedData, is_writer: bool) -> RunDirectory:
    directory = open_run(config, is_writer)
    directory.check_dataset(ready.spec, ready.fingerprint, ready.held_out_episodes)
    return directory


def _stages(
    config: Config, spec: DataSpec, training: Trajectories, taken: nnx.Module | None, run: Run
) -> None:
    """Trains what is not complete, each stage with what the ones before it have trained."""
    trained: dict[str, nnx.Module] = {} if taken is None else {"model": taken}
    for name in stage_names(config, spec):
        learner = build_learner(config, spec, name, trained)
        run.heartbeat.enter("loading data", stage=name, step=None, rate=None)
        state = run_stage(build_stage(config, training, name, learner), run)
        trained |= modules(learner, state)
    run.wandb.finish()
    run.stop.listen()  # where several processes train, JAX has taken SIGTERM


@contextmanager
def watched(directory: RunDirectory, stop: StopRequest) -> Iterator[Heartbeat]:
    """Notes the environment, and beats until the block ends, however that is."""
    if directory.is_writer:
        note_environment(directory)
    heartbeat = Heartbeat(directory if directory.is_writer else None)
    stop.on_exit, stop.needs_cleanup = lambda: heartbeat.end("stopped"), True
    try:
        yield heartbeat
    except (Preempted, KeyboardInterrupt):
        heartbeat.end("stopped")
        raise
    except Exception as error:
        heartbeat.end("failed", first_line(error))
        raise
    heartbeat.end("finished")


def _taken(config: Config, spec: DataSpec) -> nnx.Module | None:
    """The world model of another run, where one was asked for."""
    source = config.training.pretrained_model
    return load_world_model(source, config, spec) if source else None


def build_stage(config: Config, training: Trajectories, name: str, learner: Learner) -> Stage:
    """A stage with its batches: for each seed one of its own, laid end to end."""
    options, how = stage_options(config, name), (config.data.loader, config.data.num_workers)

    def batches(windows: int, seed: int) -> Loader:
        return make_loader(training, windows, options.window, seed, *how)

    made = batches(options.batch_size * config.training.num_seeds, config.seed)
    if made.count < 1:
        raise DataError(f"{training.source}: no window of {options.window} rows to train on")
    refresh = None
    if isinstance(learner, RolloutLearner) and learner.rollout_every:
        drawn = batches(learner.rollout_windows, config.seed + 1)
        refresh = RolloutUpdate(learner.rollout_every, learner.collect_rollouts, drawn)
    return Stage(name, learner, made, options, refresh)


def _greet(config: Config, training: Trajectories, held_out: Trajectories, path: Path) -> None:
    devices = jax.devices()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    if held_out is training and config.data.holdout:
        print(
            "warning: a single episode, so the model is judged on what it was trained on; "
            "data.max_episode_steps=N cuts it into pieces, some of which are held out"
        )
    print(
        f"run          {path}\n"
        f"data         {training.source}: {training.num_episodes} episodes, "
        f"{training.num_transitions} transitions; {held_out.num_episodes} episodes held out\n"
        f"devices      {len(devices)} x {devices[0].device_kind}{processes}",
        flush=True,
    )
