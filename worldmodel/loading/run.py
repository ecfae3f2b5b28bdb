"""Loads a run from its folder: model, policy and config, to predict, evaluate and dream with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import data
from worldmodel.config.io import build_options, with_overrides
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.trajectories import Trajectories, split_episodes
from worldmodel.data.windows import Window
from worldmodel.dream import DreamEnv, DreamOptions, DreamVectorEnv, build_dream
from worldmodel.dream.dream import check_model
from worldmodel.errors import check_count, require
from worldmodel.evaluation.evaluator import Results, evaluate_loaded
from worldmodel.models import WorldModel
from worldmodel.models.arguments import (
    check_actions,
    check_finite,
    check_key,
    check_observations,
)
from worldmodel.system.compilation import enable_default_compilation_cache
from worldmodel.training.restore import Restored, restore


class LoadedRun(Restored):
    """One checkpoint of a run, as `worldmodel.load` returns it.

    directory: the folder of the run
    config: its options
    spec: shapes and training statistics of its data
    stage, step: the checkpoint's
    model: the world model
    policy: from features (B, F) to a distribution over actions, or None
    value: of states under the policy, where the run trained a critic
    other_seeds: model, policy and value of the other training seeds
    last: the last checkpoint of the run, where this one is the best

    Example:
        >>> import worldmodel
        >>> run = worldmodel.load("runs/smoke-0")
        >>> run.config.model.name, run.spec.action.size
        ('rssm', 1)

        Rollouts of its model under its policy, from logged steps:

        >>> import jax
        >>> start = jax.tree.map(lambda x: x[:4], run.dream().dream.initial_states.state)
        >>> rollout = worldmodel.imagine(run.model, start, run.policy, 5, jax.random.key(0))
        >>> rollout.rewards.shape
        (4, 5)
    """

    def predict(
        self,
        observations: Mapping[str, np.ndarray],
        actions: np.ndarray | Mapping[str, Any] | tuple[Any, ...],
        context: int,
        horizon: int,
        samples: int = 1,
        key: jax.Array | None = None,
    ) -> dict[str, np.ndarray]:
        """Predicts observations open loop: after `context` observations, from actions alone.

        observations: name -> (B, T, ...) in raw units, T >= context; later ones are not used
        actions: (B, T', K) floats or (B, T') classes in raw units, T' >= context + horizon - 1;
            action t is taken at observation t; those of several parts also by name, each
            (B, T', ...) (`ActionSpec.flatten`)
        context: number of observations that the model filters
        horizon: number of steps to predict
        samples: number of sampled rollouts
        key: for the noise of the model; default `jax.random.key(0)`

        Returns name -> (B, samples, horizon, ...) in raw units, the mean of the predicted
        observation in each sampled rollout.

        Raises ArgumentError for observations or actions of other names, types, shapes or lengths.

        Example:
            >>> import worldmodel
            >>> from worldmodel import data
            >>> run = worldmodel.load("runs/smoke-0")
            >>> dataset = data.load(run.config.data)
            >>> observed = {name: x[None, :4] for name, x in dataset.raw_observations().items()}
            >>> actions = dataset.actions[None, :6]
            >>> predicted = run.predict(observed, actions, context=4, horizon=3, samples=2)
            >>> predicted["observation"].shape
            (1, 2, 3, 3)
        """
        for name, count in (("context", context), ("horizon", horizon), ("samples", samples)):
            check_count(name, count)
        key = jax.random.key(0) if key is None else key
        check_key(key)
        raw: Any = self.spec.action.flatten(actions)
        check_actions(raw, self.spec.action, context + horizon - 1)
        check_observations(observations, self.spec.observations, context, len(raw))
        check_finite("actions", raw[:, : context + horizon - 1])
        for name in self.spec.observations:
            check_finite(f"observation {name!r}", observations[name][:, :context])
        normalized = jnp.asarray(self.spec.action.normalize(raw))
        no = jnp.zeros((len(raw), context), bool)
        window = Window(
            observation={
                k: jnp.asarray(o.from_raw(observations[k][:, :context]))
                for k, o in self.spec.observations.items()
            },
            action=normalized[:, :context],
            reward=jnp.zeros(no.shape),
            is_first=no.at[:, 0].set(True),
            is_last=no,
            is_terminal=no,
            mask=~no,
        )
        keys = jax.random.split(key, samples)
        future = normalized[:, context - 1 : context + horizon - 1]
        predicted = _predict(self.model, window, future, keys)
        return {
            name: self.spec.observations[name].to_raw(np.asarray(jnp.swapaxes(value, 0, 1)))
            for name, value in predicted.items()
        }

    def evaluate(self, **overrides: Any) -> Results:
        """Evaluates this checkpoint and rewrites the run's `evaluation/`.

        overrides: single options of `evaluation`; those of a group as a dict:
            `episodes=10, planner={"kind": "cem"}`

        Returns the results, as `results.json` holds them.

        Raises ConfigError for an invalid option, and DataError if the dataset is not the one that
        the run was trained on, or if that of `data` does not fit the run.
        """
        config = with_overrides(self.config, {"evaluation": overrides})
        if config.evaluation.data is not None:
            dataset = conform_to_spec(
                data.load(self.data_options(config.evaluation.data)), self.spec
            )
        else:
            dataset = self.dataset()
        return evaluate_loaded(self, dataset, config.evaluation)

    def dataset(self) -> Trajectories:
        """The dataset that the run was trained on, with the held-out episodes.

        Raises DataError if it is missing or no longer the same, or if the run is from elsewhere.
        """
        dataset = data.load(self.data_options(), warn=False)  # that was said in training
        self.directory.check_dataset(self.spec, dataset.fingerprint())
        return dataset

    @overload
    def dream(
        self, num_envs: None = None, autoreset_mode: str = ..., **options: Any
    ) -> DreamEnv: ...

    @overload
    def dream(self, num_envs: int, autoreset_mode: str = ..., **options: Any) -> DreamVectorEnv: ...

    def dream(
        self, num_envs: int | None = None, autoreset_mode: str = "NextStep", **options: Any
    ) -> DreamEnv | DreamVectorEnv:
        """The model as a Gymnasium environment that begins at logged steps of the dataset.

        num_envs: None for a `gymnasium.Env`, else the size of a `gymnasium.vector.VectorEnv`
        autoreset_mode: of the vector environment: NextStep, SameStep or Disabled
        options: fields of `DreamOptions`: where dreams begin and end, and what uncertainty costs

        Raises ConfigError for an invalid option and for a model that cannot be dreamed, and
        DataError if the dataset is no longer that of the run.

        Example:
            >>> import worldmodel
            >>> envs = worldmodel.load("runs/smoke-0").dream(num_envs=2, time_limit=50)
            >>> observations, infos = envs.reset(seed=0)
            >>> observations.shape
            (2, 3)
        """
        if num_envs is not None:
            check_count("dream: num_envs", num_envs)
        chosen = build_options(DreamOptions, options, "dream")
        check_model(self.model, self.spec, chosen)
        dataset = self.dataset()
        count = dataset.num_episodes
        training, held_out = split_episodes(count, self.config.data.holdout)
        splits = {"training": training, "held_out": held_out, "all": np.arange(count)}
        episode_ids = splits[chosen.split]
        chosen = replace(
            chosen,
            context=chosen.context or self.config.evaluation.context,
            time_limit=chosen.time_limit or int(dataset.lengths.max()) - 1,
        )
        episodes = dataset.select(episode_ids)
        dream = build_dream(self.model, self.spec, episodes, episode_ids, chosen)
        if num_envs is None:
            return DreamEnv(dream, self.spec)
        return DreamVectorEnv(dream, self.spec, num_envs, autoreset_mode)


@nnx.jit
def _predict(
    model: WorldModel, window: Window, actions: jax.Array, keys: jax.Array
) -> dict[str, jax.Array]:
    """name -> (samples, B, H, ...): filters the window and rolls out, once for every key."""

    def sample(key: jax.Array) -> dict[str, jax.Array]:
        observe_key, rollout_key = jax.random.split(key)
        last = jax.tree.map(lambda x: x[:, -1], model.observe(window, observe_key))
        states = model.rollout(last, actions, rollout_key)
        return {name: p.mean() for name, p in model.observation(states).items()}

    return jax.lax.map(sample, keys)


def load(
    path: str | Path, checkpoint: str | int = "last", *, allow_code: bool = False
) -> LoadedRun:
    """Loads a checkpoint of a run: that of its last stage that has one.

    path: the folder of the run, such as `runs/NAME`
    checkpoint: `last` (the newest that is not damaged), `best` (by the stage's `best_metric`) or
        the number of a step
    allow_code: whether the run is trusted. An environment that it names, `package.module:ID`, may
        then be imported although no installed package has it, which runs code that came with the
        run or is in the working folder; and the data source that it names is read although another
        user, or this one on another machine, trained it

    Returns the run. Of a run with several training seeds, model and policy are those of the first,
    and `other_seeds` holds the others. With `best`, `last` is the last checkpoint: the best one
    was selected among several, in part for its luck.

    Raises CheckpointError if there is no such run or checkpoint, or if it belongs to another model,
    and ConfigError for an environment that is not allowed.

    Example:
        >>> import worldmodel
        >>> run = worldmodel.load("runs/smoke-0")
        >>> run.stage
        'policy'
    """
    accepted = "the folder of a run, as text or a Path"
    require(isinstance(path, str | os.PathLike), "path", repr(path), accepted)
    require(isinstance(allow_code, bool), "allow_code", repr(allow_code), "True or False")
    if not isinstance(checkpoint, str):
        check_count("checkpoint", checkpoint)
    restored = restore(path, str(checkpoint), allow_code=allow_code)
    return LoadedRun(**{field.name: getattr(restored, field.name) for field in fields(restored)})


def evaluate_run(
    run: str | Path, checkpoint: str = "last", *, allow_code: bool = False, **overrides: Any
) -> int:
    """Evaluates a checkpoint of the run in folder `run` and returns the exit status; `overrides`
    are single options of `evaluation`, the rest is as in `load`. Raises UserError.
    """
    loaded = load(run, checkpoint, allow_code=allow_code)
    enable_default_compilation_cache()
    loaded.evaluate(**overrides)
    return 0


def make_dream(
    run: str | Path,
    checkpoint: str = "last",
    num_envs: int | None = None,
    *,
    allow_code: bool = False,
    **options: Any,
) -> DreamEnv | DreamVectorEnv:
    """Gymnasium's entry point of `worldmodel/Dream-v0`: `load(run, ...).dream(...)`."""
    return load(run, checkpoint, allow_code=allow_code).dream(num_envs, **options)
