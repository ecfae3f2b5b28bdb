"""A whole run: data in, stages in order, a report out. The same command resumes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from worldmodel import data, planning
from worldmodel.config import Config
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.horizons import check_evaluable
from worldmodel.data.normalization import resolve_normalization
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories, split, split_episodes
from worldmodel.environments import real as environments
from worldmodel.errors import first_line
from worldmodel.nn.distributions import MAX_SCALAR
from worldmodel.runs.directory import RunDirectory, check_resumable, open_run, run_lock
from worldmodel.runs.provenance import note_environment
from worldmodel.status.heartbeat import Heartbeat
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.system.signals import Preempted, StopRequest, handle_stop_signals, run_stoppable
from worldmodel.training import distributed
from worldmodel.training.dispatch import Stage, make_stage
from worldmodel.training.dry_run import dry_run
from worldmodel.training.learners import trained_modules
from worldmodel.training.loop import RunContext, run_stage
from worldmodel.training.mesh import all_devices
from worldmodel.training.metrics import WandB
from worldmodel.training.plan import StagePlan, check_stages, plan_stages
from worldmodel.training.restore import load_world_model


def train(config: Config, evaluate: Callable[[Path], int]) -> int:
    """Trains every stage that is not complete, then evaluates. Returns the exit status: 0 when
    everything is done, 75 after a request to stop, 130 after Ctrl-C.

    evaluate: evaluates the run in a folder and returns its exit status
    """
    return run_stoppable(lambda: _train(config, evaluate))


def _train(config: Config, evaluate: Callable[[Path], int]) -> int:
    began = time.perf_counter()

    # ---- Processes: all of them train; the first one prints, writes files and evaluates
    enable_compilation_cache(config.training.compilation_cache)
    distributed.initialize(config.training.distributed)
    is_writer = distributed.is_process_zero()
    logging = config.logging
    if not is_writer:
        logging = replace(logging, wandb="disabled", progress="none")

    # ---- Data, devices and the plan; every check is made before anything is written
    dataset = distributed.process_zero_first(lambda: _load_dataset(config))
    mesh = all_devices(config.training.fsdp_shards)
    stages = plan_stages(config, dataset.spec)
    trained = distributed.all_or_none(lambda: _check_plan(config, dataset, stages, mesh))

    if config.training.dry_run:
        return dry_run(_untrained_stages(stages, dataset.training), mesh, verbose=is_writer)

    # ---- The run's folder
    directory = distributed.process_zero_first(lambda: _open_run(config, dataset, is_writer))
    with (
        run_lock(directory),
        handle_stop_signals() as stop,
        running_heartbeat(directory, stop) as heartbeat,
        closing(WandB(logging, directory.path, asdict(config))) as wandb,
    ):
        if is_writer:
            _print_header(dataset, directory.path, config.data.holdout)

        # ---- Stages in order, each with the modules that earlier ones have trained
        context = RunContext(directory, mesh, stop, wandb, logging.progress, heartbeat)
        for plan in stages.values():
            learner = plan.build_learner(trained)
            heartbeat.enter("loading data", stage=plan.name, step=None, rate=None)
            state = run_stage(make_stage(plan, dataset.training, learner), context)
            trained |= trained_modules(learner, state)
        wandb.finish()
        stop.listen()  # several processes: JAX has replaced the handler of SIGTERM

        # ---- Evaluation, by the first process alone
        distributed.shutdown()
        if not is_writer:
            return 0
        heartbeat.enter("evaluation")
        status = evaluate(directory.path)
    print(f"total {time.perf_counter() - began:.0f} s")
    return status


@dataclass(frozen=True)
class Dataset:
    """The trajectories of a run, split by episode.

    fingerprint: of all trajectories
    held_out_episodes: numbers of the episodes that are kept from training
    """

    training: Trajectories
    held_out: Trajectories
    spec: DataSpec
    fingerprint: str
    held_out_episodes: list[int]


def _load_dataset(config: Config) -> Dataset:
    check_resumable(config)  # before the data are read
    trajectories = data.load(config.data)
    training, held_out = split(trajectories, config.data.holdout)
    _, episodes = split_episodes(trajectories.num_episodes, config.data.holdout)
    return Dataset(
        training=training,
        held_out=held_out,
        spec=training.spec(resolve_normalization(config.data, training)),
        fingerprint=trajectories.fingerprint(),
        held_out_episodes=episodes.tolist(),
    )


def _check_plan(
    config: Config, dataset: Dataset, stages: dict[str, StagePlan], mesh: jax.sharding.Mesh
) -> dict[str, Any]:
    """Raises UserError for whatever training or evaluation would refuse later. Returns the modules
    that are taken from another run, by name.
    """
    spec = dataset.spec
    check_stages(stages.values(), mesh)
    planning.validate(config.evaluation.planner, spec)
    acts = config.policy.name != "none" or config.evaluation.planner.kind != "none"
    if acts and config.data.environment_id is not None:
        environments.check_environment(config.data.environment_id, spec)
    held_out = dataset.held_out
    if config.evaluation.data is not None:
        held_out = conform_to_spec(data.load(evaluation_data_options(config)), spec)
    check_evaluable(config, spec, held_out)
    if config.training.pretrained_model is None:
        return {}
    model = load_world_model(
        config.training.pretrained_model,
        config.model,
        spec,
        num_seeds=config.training.num_seeds,
        dtype=jnp.dtype(config.training.precision),
    )
    return {"model": model}


def _open_run(config: Config, dataset: Dataset, is_writer: bool) -> RunDirectory:
    directory = open_run(config, is_writer)
    directory.check_dataset(dataset.spec, dataset.fingerprint, dataset.held_out_episodes)
    return directory


def _untrained_stages(stages: dict[str, StagePlan], training: Trajectories) -> Iterable[Stage]:
    return (make_stage(plan, training, plan.build_learner()) for plan in stages.values())


@contextmanager
def running_heartbeat(directory: RunDirectory, stop: StopRequest) -> Iterator[Heartbeat]:
    """Writes environment.json, and a heartbeat whose last beat reports how the block ended."""
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


def _print_header(dataset: Dataset, path: Path, holdout: float) -> None:
    devices = jax.devices()
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    training, held_out = dataset.training, dataset.held_out
    if held_out is training and holdout:
        print(
            "warning: the data are a single episode, so the model is evaluated on what it was "
            "trained on; data.max_episode_steps=N cuts it into pieces, some of which are held out"
        )
    rewards = np.zeros(1) if training.rewards is None else training.rewards
    if (largest := float(np.abs(rewards).max())) > MAX_SCALAR:
        print(
            f"warning: rewards of up to {largest:.3g}: the heads of reward and value do not tell "
            f"numbers beyond {MAX_SCALAR:.3g} apart; divide the rewards by a constant"
        )
    print(
        f"run          {path}\n"
        f"data         {training.source}: {training.num_episodes} episodes, "
        f"{training.num_transitions} transitions; {held_out.num_episodes} episodes held out\n"
        f"devices      {len(devices)} x {devices[0].device_kind}{processes}",
        flush=True,
    )
