"""A model's dream beside the real environment, under the same actions.

The model is filtered through the first rows, then goes on alone, while the real environment goes
on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NewType

import jax
import numpy as np

from worldmodel.compilation import use_cache
from worldmodel.config.dream import DreamOptions
from worldmodel.config.play import PlayOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.dream import Dream, DreamState, build
from worldmodel.errors import ConfigError
from worldmodel.evaluation.environments import Observation, RealEnvironment
from worldmodel.evaluation.returns import Act
from worldmodel.loading import LoadedRun, load
from worldmodel.play import numbers, scenes
from worldmodel.play.actors import Left, actor
from worldmodel.play.table import Table
from worldmodel.play.video import Video

# Not to be added up, or compared as if they were the same: one was earned, the other is believed.
RealReward = NewType("RealReward", float)
ImaginedReward = NewType("ImaginedReward", float)


class Imagined(NamedTuple):
    """What the dream says of a step. `error`: how far its observation is from the real one."""

    observation: Observation
    reward: ImaginedReward
    ended: bool
    error: float


class Moment(NamedTuple):
    """A step: what was done, what followed, and what the dream says, which begins after the rows
    that the model is shown.
    """

    step: int  # the first is 1
    action: np.ndarray  # in raw units
    observation: Observation
    reward: RealReward
    ended: bool
    dreamed: Imagined | None

    @property
    def over(self) -> bool:
        return self.ended or (self.dreamed is not None and self.dreamed.ended)


def play(options: PlayOptions) -> None:
    """Plays an episode, prints a line a step and what came of it. Raises UserError."""
    run = load(options.run, options.checkpoint)
    use_cache(run.config.training.compilation_cache)
    name = options.environment or run.config.data.environment
    if name is None:
        raise ConfigError(
            f"run={options.run}: its data.environment names no real environment; accepted: "
            "environment=ID, or episode=N, which imagines from a logged row"
        )
    kind = (options.actions or ["random" if run.policy is None else "policy"])[0]
    context = options.context or run.config.evaluation.context
    act = actor(kind, run)
    with scenes.opened(name, run.spec, options) as (environment, video):
        print(
            f"{run.config.name}, {run.stage} at step {run.step}: {name} beside the dream of "
            f"{run.config.model.name}\nseed {options.seed}, actions {kind}; the model is shown "
            f"{context} rows, then goes on alone"
        )
        moments = beside(run, environment, act, context, options.steps, options.seed)
        alone = _shown(moments, run.spec, video)
        print(*_closing(alone, run.spec), sep="\n")
        if video is not None and video.frames:
            video.write()
            print(f"video                {video.path}, {video.frames} frames")


def beside(
    run: LoadedRun, environment: RealEnvironment, act: Act, context: int, steps: int, seed: int
) -> Iterator[Moment]:
    """The moments of episode `seed`: at most `steps`, until the real episode or the dream ends, or
    whoever acts leaves. The first `context - 1` are shown to the model.

    Raises ConfigError for a model that does not step, and where `steps` leave nothing to dream.
    """
    if steps < context:
        raise ConfigError(
            f"steps={steps}: the model is shown context={context} rows first; accepted: steps of "
            f"{context} or more"
        )
    rows, done = [environment.reset(seed)], []
    key, memory, dream, state = jax.random.key(seed), None, None, None
    for step in range(1, steps + 1):
        seen = {name: value[None] for name, value in rows[-1].items()}
        try:
            memory, (action,) = act(memory, seen, np.array([seed]), step - 1)
        except Left:
            return
        observation, reward, ended = environment.step(action)
        rows.append(observation)
        done.append((action, reward))
        if step == context:
            dream, state = _begun(run, _logged(run.spec, rows, done), context)
        dreamed = None
        if dream is not None:
            state, said = _step(dream, state, action, jax.random.fold_in(key, step))
            dreamed = _imagined(said, observation, run.spec)
        moment = Moment(step, action, observation, RealReward(reward), ended, dreamed)
        yield moment
        if moment.over:
            return


def _logged(spec: DataSpec, rows: list[Observation], done: list) -> Trajectories:
    """What happened so far, as logs of one episode."""
    actions, rewards = zip(*done, strict=True)
    return Trajectories(
        observations={name: np.stack([row[name] for row in rows]) for name in spec.observations},
        actions=np.stack([*actions, np.zeros_like(actions[-1])]),
        rewards=np.array([*rewards, 0.0], np.float32),
        lengths=np.array([len(rows)]),
        terminated=np.array([False]),
        action_spec=spec.action,
        source="the real environment",
    )


def _begun(run: LoadedRun, logs: Trajectories, context: int) -> tuple[Dream, DreamState]:
    """A dream that begins in the row before the last, after all rows up to it were seen."""
    options = DreamOptions(start="beginning", context=context, time_limit=2**31 - 1)
    dream = build(run.model, run.spec, logs, np.zeros(1, int), options)
    return dream, dream.reset_at(np.int32(0), jax.random.key(0))[0]


@jax.jit
def _step(
    dream: Dream, state: DreamState, action: jax.Array, key: jax.Array
) -> tuple[DreamState, tuple[dict[str, jax.Array], jax.Array, jax.Array]]:
    state, observation, reward, ended, _, _ = dream.step(state, action, key)
    return state, (observation, reward, ended)


def _imagined(said: tuple, real: Observation, spec: DataSpec) -> Imagined:
    observation, reward, ended = jax.device_get(said)
    error = numbers.error(observation, real, spec)
    return Imagined(observation, ImaginedReward(float(reward)), bool(ended), error)


# ------------------------------------------------------------------------------------ what is shown


def _shown(moments: Iterator[Moment], spec: DataSpec, video: Video | None) -> list[Moment]:
    """Prints a line a moment, as it comes; returns those that the model dreamed."""
    table, alone = Table(spec), []
    print(*table.header(), sep="\n", flush=True)
    for moment in moments:
        print(table.line(moment), flush=True)
        alone += [moment] if moment.dreamed is not None else []
        if video is not None:
            video.add(moment)
    return alone


def _closing(alone: list[Moment], spec: DataSpec) -> Iterator[str]:
    """What came of the steps that the model went on alone."""
    if not alone:
        yield "Nothing was dreamed: the episode was over before the model went on alone."
        return
    yield ""
    if (last := alone[-1]).over:
        ends = {(True, True): "both ended", (True, False): "the real episode ended, the dream not"}
        yield f"At step {last.step} " + ends.get(
            (last.ended, last.dreamed.ended), "the dream ended, the real episode not"
        )
    real = RealReward(sum(m.reward for m in alone))
    imagined = ImaginedReward(sum(m.dreamed.reward for m in alone))
    errors = [m.dreamed.error for m in alone]
    yield f"steps dreamed        {len(alone)}, from step {alone[0].step} on"
    yield f"real return          {real:.4g}, earned in these steps"
    yield f"imagined return      {imagined:.4g}, believed of them"
    yield f"median error         {np.median(errors):.3g} {numbers.unit_of_error(spec)}"
