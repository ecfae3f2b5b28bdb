"""The learner of each stage, and the modules that a stage leaves to the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel import models, policies
from worldmodel.config import ModelOptions, PolicyOptions
from worldmodel.config.registry import names
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.nn.learner import Learner, TrainState
from worldmodel.training.evaluated_parameters import (
    EMA,
    SNAPSHOT,
    BestMembersLearner,
    EMALearner,
)
from worldmodel.training.seeds import VmappedLearner, select_seed
from worldmodel.training.world_model import WorldModelLearner

Modules = Mapping[str, Any]  # name -> nnx.Module, as trained by earlier stages


@dataclass(frozen=True)
class LearnerBuilder:
    """Builds the learner of a stage.

    stage: its name, see `StagePlan`
    model, policy: options of the family and of the algorithm
    spec: of the data
    dtype: of activations; parameters are float32
    num_seeds: seeds trained at once
    microbatches, remat: how world models compute gradients, see `gradients`
    """

    stage: str
    model: ModelOptions
    policy: PolicyOptions
    spec: DataSpec
    optimizer: optax.GradientTransformation
    dtype: jnp.dtype
    num_seeds: int = 1
    microbatches: int = 1
    remat: bool = False

    def __call__(self, trained: Modules | None = None) -> Learner:
        """Builds a learner that continues with the modules that earlier stages `trained`. Without
        them it has new ones, which is all that restoring a checkpoint needs.
        """
        trained = trained or {}
        if self.num_seeds == 1:
            return self._single_seed(trained)
        first = {name: select_seed(module, 0) for name, module in trained.items()}
        return VmappedLearner(self._single_seed(first), self.num_seeds, trained)

    def _single_seed(self, trained: Modules) -> Learner:
        pretrained = models.family(self.model).pretrained_modules(self.model, self.spec)
        if self.stage in pretrained:
            return self._minimize_loss(lambda key: getattr(self._build_model(key), self.stage))
        if self.stage == "world_model":
            new = self._build_model(jax.random.key(0)) if pretrained else None
            modules = {name: trained.get(name, getattr(new, name)) for name in pretrained}
            return self._with_evaluated_model(self._minimize_loss(self._build_model, modules))
        self._check_reward()
        if self.stage == "joint":
            return self._with_evaluated_model(
                policies.build_joint(
                    self.policy, self._build_model, self.spec, self.optimizer, self.dtype
                )
            )
        model = trained["model"] if "model" in trained else self._build_model(jax.random.key(0))
        return policies.build(self.policy, model, self.spec, self.optimizer, self.dtype)

    def _build_model(self, key: jax.Array) -> models.WorldModel:
        return models.build(self.model, self.spec, key, dtype=self.dtype)

    def _minimize_loss(
        self, build: Callable[[jax.Array], nnx.Module], pretrained: Modules | None = None
    ) -> Learner:
        """Of a world model, or of the module of it that the stage is named after."""
        return WorldModelLearner(
            build,
            self.optimizer,
            name="model" if self.stage == "world_model" else self.stage,
            pretrained=pretrained,
            microbatches=self.microbatches,
            remat=self.remat,
        )

    def _with_evaluated_model(self, learner: Learner) -> Learner:
        """The learner, with the copy of the model that is evaluated in place of its last
        parameters.
        """
        if self.model.uses_best_snapshot:
            return BestMembersLearner(learner)
        return EMALearner(learner, self.model.ema_decay) if self.model.ema_decay else learner

    def _check_reward(self) -> None:
        if not self.spec.has_reward and policies.needs_reward(self.policy):
            accepted = names("policy", lambda a: a is None or not a.needs_reward)
            raise ConfigError(
                f"policy={self.policy.name} learns from rewards, and this dataset has none; "
                f"accepted: policy={accepted}"
            )


def trained_modules(learner: Learner, state: TrainState) -> dict[str, Any]:
    """The modules that a stage trained or used, by name, with the parameters of its state: their
    average or their best snapshot, where the state has one.
    """
    copies = [state.target_params.get(name, {}) for name in (EMA, SNAPSHOT)]
    sources = (state.frozen, state.params, *copies)
    params = {name: value for source in sources for name, value in source.items()}
    pretrained = {name: p for name, p in state.frozen.items() if name not in learner.graphdefs}
    return {
        name: nnx.merge(graphdef, params[name] | (pretrained if name == "model" else {}))
        for name, graphdef in learner.graphdefs.items()
    }
