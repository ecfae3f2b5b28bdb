"""A finished or running run, loaded from its folder: model, policy, config and what can be asked of
them.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel import data
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.io import build_options, with_overrides
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.trajectories import split_episodes
from worldmodel.data.windows import Window
from worldmodel.dream import DreamEnv, DreamVectorEnv
from worldmodel.dream import dream as dreams
from worldmodel.dream.options import DreamOptions
from worldmodel.evaluation.evaluator import Results, evaluate_loaded
from worldmodel.models import WorldModel
from worldmodel.system.compilation import enable_compilation_cache
from worldmodel.training.restore import Restored, restore


class LoadedRun(Restored):
    """One checkpoint of a run, and what can be asked of it."""

    def predict(
        self,
        observations: dict[str, np.ndarray],
        actions: np.ndarray,
        context: int,
        horizon: int,
        samples: int = 1,
        key: jax.Array | None = None,
    ) -> dict[str, np.ndarray]:
        """Open-loop prediction in raw units.

        observations: name -> (B, >= context, ...); the first `context` rows are seen
        actions: (B, >= context + horizon - 1, ...); row t is what was done at observation t
        Returns name -> (B, samples, horizon, ...), the expected observation of each sampled future.
        """
        window, future = self._inputs(observations, actions, context, horizon)
        key = jax.random.key(0) if key is None else key
        predicted = _predict(self.model, window, future, jax.random.split(key, samples))
        return {name: np.asarray(jnp.swapaxes(value, 0, 1)) for name, value in predicted.items()}

    def evaluate(self, **overrides: Any) -> Results:
        """Judges this checkpoint and rewrites its evaluation; keywords are single options of
        `evaluation`, those of a group as a dict: `episodes=10, planner={"kind": "cem"}`.

        Raises ConfigError, or DataError for logs of `data` that are not like the run's.
        """
        config = with_overrides(self.config, {"evaluation": overrides})
        if config.evaluation.data is not None:
            trajectories = conform_to_spec(data.load(evaluation_data_options(config)), self.spec)
        else:
            trajectories = data.load(config.data)
            self.directory.check_dataset(self.spec, trajectories.fingerprint())
        return evaluate_loaded(self, trajectories, config.evaluation)

    def dream(
        self, num_envs: int | None = None, autoreset_mode: str = "NextStep", **options: Any
    ) -> DreamEnv | DreamVectorEnv:
        """The model as a Gymnasium environment, or with `num_envs` as a vector environment, which
        begins anew by `autoreset_mode`: NextStep, SameStep or Disabled.

        `options` are those of `DreamOptions`: where dreams begin and end, and what uncertainty
        costs. Raises ConfigError for others, and for a model that cannot be make_dream.
        """
        chosen = build_options(DreamOptions, options, "dream")
        dreams.check_model(self.model, self.spec, chosen)
        logs = data.load(self.config.data)
        self.directory.check_dataset(self.spec, logs.fingerprint())
        count = logs.num_episodes
        training, held_out = split_episodes(count, self.config.data.holdout)
        numbers = {"training": training, "held_out": held_out, "all": np.arange(count)}[
            chosen.split
        ]
        context = chosen.context or self.config.evaluation.context
        limit = chosen.time_limit or int(logs.lengths.max()) - 1
        chosen = replace(chosen, context=context, time_limit=limit)
        dream = dreams.build_dream(self.model, self.spec, logs.select(numbers), numbers, chosen)
        if num_envs is None:
            return DreamEnv(dream, self.spec)
        return DreamVectorEnv(dream, self.spec, num_envs, autoreset_mode)

    def _inputs(
        self, observations: dict[str, np.ndarray], actions: np.ndarray, context: int, horizon: int
    ) -> tuple[Window, jax.Array]:
        missing = self.spec.observations.keys() - observations.keys()
        if missing:
            raise ValueError(f"observations {sorted(missing)} are missing")
        if actions.shape[1] < context + horizon - 1:
            raise ValueError(
                f"{actions.shape[1]} actions were given; context {context} and horizon {horizon} "
                f"need {context + horizon - 1}"
            )
        actions = jnp.asarray(self.spec.action.normalize(actions))
        seen = {k: jnp.asarray(observations[k])[:, :context] for k in self.spec.observations}
        shape = (actions.shape[0], context)
        no = jnp.zeros(shape, bool)
        window = Window(
            observation=seen,
            action=actions[:, :context],
            reward=jnp.zeros(shape),
            is_first=no.at[:, 0].set(True),
            is_last=no,
            is_terminal=no,
            mask=~no,
        )
        return window, actions[:, context - 1 : context + horizon - 1]


@nnx.jit
def _predict(
    model: WorldModel, window: Window, actions: jax.Array, keys: jax.Array
) -> dict[str, jax.Array]:
    """{name: (samples, B, H, ...)}: filter the window, follow the actions, once for every key."""

    def one(key: jax.Array) -> dict[str, jax.Array]:
        observe_key, rollout_key = jax.random.split(key)
        seen = model.observe(window, observe_key)
        last = jax.tree.map(lambda x: x[:, -1], seen)
        states = model.rollout(last, actions, rollout_key)
        return {name: p.mean() for name, p in model.observation(states).items()}

    return jax.lax.map(one, keys)


def load(path: str | Path, checkpoint: str = "last") -> LoadedRun:
    """Loads a run: its last stage that has a checkpoint, at `last` (the newest that is whole), at
    `best` (by `best_metric` of the stage's options) or at a step. Where it trained several seeds,
    model and policy are the first one's, and `other_seeds` those of the others. The best one comes with
    the `last`: it was chosen among several, in part for its luck.

    Raises CheckpointError if there is no such run or checkpoint, or if it holds another model.
    """
    restored = restore(path, checkpoint)
    return LoadedRun(**{field.name: getattr(restored, field.name) for field in fields(restored)})


def evaluate_run(run: str | Path, checkpoint: str = "last", **overrides: Any) -> int:
    """Judges a checkpoint of the run in folder `run`; `overrides` are single evaluation options.

    Returns the exit status. Raises UserError for what the user can mend, such as logs that are no
    longer those the run was trained on: other episodes would be held out.
    """
    loaded = load(run, checkpoint)
    enable_compilation_cache(loaded.config.training.compilation_cache)
    loaded.evaluate(**overrides)
    return 0


def make_dream(
    run: str | Path, checkpoint: str = "last", num_envs: int | None = None, **options: Any
) -> DreamEnv | DreamVectorEnv:
    """What Gymnasium makes of `worldmodel/Dream-v0`: `load(run, checkpoint).dream(...)`."""
    return load(run, checkpoint).dream(num_envs, **options)
