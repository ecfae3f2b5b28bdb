"""What all offline algorithms share: the batches they learn from, and how an update runs.

A batch mixes transitions of the dataset with transitions drawn from a replay buffer of imagined
ones. An algorithm defines its modules, its losses and the order in which they are minimized; every
module has an optimizer state of its own. Every `rollout_every` updates, `collect_rollouts`
refreshes the replay buffer with rollouts from dataset states under the current policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.config.registry import names
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination import replay_buffer
from worldmodel.imagination.transitions import (
    Transition,
    transition_shapes,
    transitions_from_window,
)
from worldmodel.models import EnsembleModel, WorldModel
from worldmodel.nn.learner import Metrics, Params, TrainState, graphdefs_of, split_module
from worldmodel.policies.networks import Critics, Nets, merge_nets
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.synthetic import generate_transitions, rollout_statistic_names

Loss = tuple[jax.Array, Metrics]  # what is minimized, and metrics
# What a step changes of a `TrainState`: field -> name of a module -> its new value.
Changes = dict[str, Params]

Options = TypeVar("Options", bound=OfflineOptions)


class UpdateStep(NamedTuple):
    """Modules that minimize one loss together.

    modules: their names
    loss: (modules, batch, key) -> loss (), metrics
    every: runs once in so many updates
    begin, end: the first update in which it may run, and the first in which it no longer does
    """

    modules: tuple[str, ...]
    loss: Callable[[Nets, Transition, jax.Array], Loss]
    every: int = 1
    begin: int = 0
    end: int | None = None

    @property
    def unconditional(self) -> bool:
        return (self.every, self.begin, self.end) == (1, 0, None)

    def due(self, step: jax.Array) -> jax.Array:
        """Whether it runs in update number `step`, counted from 0."""
        within = (step >= self.begin) & (step < (2**31 - 1 if self.end is None else self.end))
        return within & (step % self.every == self.every - 1)


class ActionValue(nnx.Module):
    """features (..., F) -> min_k Q_k(s, pi(s)) (...), in raw units of the reward."""

    def __init__(self, critic: Critics, actor: Any, unit: float, discount: float):
        self.critic, self.actor, self.unit, self.discount = critic, actor, unit, discount

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.unit * self.critic(features, self.actor(features).mode()).min(0)


class OfflineLearner(Generic[Options]):
    """Trains a policy on transitions of the dataset, of a frozen model, or both.

    An algorithm defines `modules` and `update_steps`. It registers in its own file:

        @register("policy", "bc", BCOptions)
        class BehaviorCloning(OfflineLearner[BCOptions]): ...
    """

    needs_reward: ClassVar[bool] = True  # of the dataset
    supports_discrete_actions: ClassVar[bool] = False
    requires_ensemble: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("critic",)  # modules that have a target network

    def __init__(
        self,
        options: Options,
        model: WorldModel,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        if spec.action.kind != "continuous" and not self.supports_discrete_actions:
            accepted = names("policy", lambda a: a is None or a.supports_discrete_actions)
            raise ConfigError(
                f"policy={options.name} requires continuous actions, and this dataset has "
                f"{spec.action.kind} ones; accepted: policy={accepted}"
            )
        self.options, self.model, self.spec, self.dtype = options, model, spec, dtype
        self.reward_unit = reward_unit(options, spec)
        self.uses_rollouts = options.real_ratio < 1
        self.rollout_every = options.rollout_every if self.uses_rollouts else 0
        self.rollout_windows = options.rollout_batch_size
        if self.requires_ensemble:
            require_ensemble(model, f"policy={options.name}")
        if self.uses_rollouts and options.penalty != "none":
            require_ensemble(model, f"policy.penalty={options.penalty}")
        if self.uses_rollouts and options.truncation_quantile is not None:
            require_ensemble(model, f"policy.truncation_quantile={options.truncation_quantile:g}")
        self.optimizer = optimizer
        self.actor_optimizer = optax.chain(optimizer, optax.scale(options.actor_lr_scale))
        model_graphdef, self.model_params = split_module(model)
        self.graphdefs = {"model": model_graphdef, **graphdefs_of(self.modules)}

    # --------------------------------------------------------------- what an algorithm implements

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        """New modules by name, `actor` among them."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `modules`")

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """The steps of an update, in order. Target networks are updated with the last one."""
        raise NotImplementedError(f"{type(self).__name__} does not implement `update_steps`")

    @staticmethod
    def build_value(options: Options, spec: DataSpec, modules: Nets) -> ActionValue:
        """The value of the policy by its critic, from features (..., F) to (...)."""
        unit = reward_unit(options, spec)
        return ActionValue(modules["critic"], modules["actor"], unit, options.discount)

    # ------------------------------------------------------------------------ the Learner protocol

    def init(self, key: jax.Array) -> TrainState:
        # The model stays outside the compiled function, where it would be a constant.
        frozen = {"model": jax.tree.map(jnp.copy, self.model_params)}
        return replace(jax.jit(self._init)(key), frozen=frozen)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        batch_key, key = jax.random.split(key)
        transitions, metrics = self._transitions(state, batch, batch_key)
        steps = self.update_steps()
        for number, step in enumerate(steps):
            run = partial(self._run, state, step, transitions, jax.random.fold_in(key, number))
            if number == len(steps) - 1:
                run = partial(self._run_and_update_targets, state, run)
            changes, step_metrics = run() if step.unconditional else _run_when_due(state, step, run)
            state = replace(state, **{k: getattr(state, k) | v for k, v in changes.items()})
            metrics |= step_metrics
        return replace(state, step=state.step + 1), metrics | state.statistics

    def collect_rollouts(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState:
        """Replaces the oldest refresh of the replay buffer by rollouts from `windows` (N, 2+)."""
        nets = merge_nets(self.graphdefs, state)
        imagined = generate_transitions(
            self.options, self.spec, nets["model"], nets["actor"], windows, key
        )
        buffer = replay_buffer.add(state.replay_buffer, imagined.transitions, imagined.valid)
        return replace(state, replay_buffer=buffer, statistics=imagined.statistics)

    # --------------------------------------------------------------------------------------- parts

    def network(self, kind: Callable[..., Any], rngs: nnx.Rngs, outputs: int = 0) -> nnx.Module:
        """A network over features, with an output for each of the A numbers of an action as a
        vector unless `outputs` is set.
        """
        sizes = (self.model.feature_size, outputs or self.spec.action.vector_size)
        return kind(*sizes, self.options.units, self.options.layers, rngs=rngs, dtype=self.dtype)

    def critics(self, count: int, rngs: nnx.Rngs, layer_norm: bool = False) -> Critics:
        """`count` critics Q(s, a)."""
        sizes = (self.model.feature_size, self.spec.action.size)
        return Critics(
            count, *sizes, self.options.units, self.options.layers,
            rngs=rngs, dtype=self.dtype, layer_norm=layer_norm,
        )  # fmt: skip

    def _init(self, key: jax.Array) -> TrainState:
        params = {name: split_module(module)[1] for name, module in self.modules(key).items()}
        optimizer = {name: self._optimizer(name).init(value) for name, value in params.items()}
        target_params = {name: params[name] for name in self.targets if name in params}
        statistics, buffer = {}, ()
        if self.uses_rollouts:
            statistics = {name: jnp.zeros(()) for name in rollout_statistic_names(self.options)}
            shapes = transition_shapes(self.model.feature_size, self.spec.action)
            capacity = self.options.rollout_batch_size * self.options.horizon
            buffer = replay_buffer.empty(shapes, capacity, self.options.rollout_retain)
        step = jnp.zeros((), jnp.int32)
        return TrainState(params, {}, optimizer, target_params, statistics, step, buffer)

    def _optimizer(self, name: str) -> optax.GradientTransformation:
        return self.actor_optimizer if name == "actor" else self.optimizer

    def _transitions(
        self, state: TrainState, windows: Window, key: jax.Array
    ) -> tuple[Transition, Metrics]:
        """The batch of an update, dataset transitions first, with rewards in their unit."""
        dataset_key, imagined_key = jax.random.split(key)
        model = nnx.merge(self.graphdefs["model"], (state.frozen | state.params)["model"])
        batch = transitions_from_window(model, windows, dataset_key)
        if self.uses_rollouts:
            size = batch.reward.shape[0]
            real = round(self.options.real_ratio * size)
            drawn = replay_buffer.sample(state.replay_buffer, imagined_key, size - real)
            if batch.next_observed is not None:
                drawn = drawn._replace(next_observed=jnp.ones(size - real, bool))
            batch = jax.tree.map(lambda x, y: jnp.concatenate([x[:real], y]), batch, drawn)
        batch = batch._replace(reward=batch.reward / self.reward_unit)
        return jax.lax.stop_gradient(batch), {"policy/reward": mean(batch.reward, batch)}

    def _run(
        self, state: TrainState, step: UpdateStep, batch: Transition, key: jax.Array
    ) -> tuple[Changes, Metrics]:
        """One optimizer step of the modules of `step`."""

        def loss(params: Params) -> Loss:
            return step.loss(merge_nets(self.graphdefs, state, params), batch, key)

        params = {name: state.params[name] for name in step.modules}
        grads, metrics = jax.grad(loss, has_aux=True)(params)
        opt_state = {}
        for name in step.modules:
            updates, opt_state[name] = self._optimizer(name).update(
                grads[name], state.opt_state[name], params[name]
            )
            params[name] = optax.apply_updates(params[name], updates)
        return {"params": params, "opt_state": opt_state}, metrics

    def _run_and_update_targets(
        self, state: TrainState, run: Callable[[], tuple[Changes, Metrics]]
    ) -> tuple[Changes, Metrics]:
        """`run`, then theta' + tau (theta - theta') for the target networks."""
        changes, metrics = run()
        params, tau = state.params | changes["params"], self.options.tau
        # Written so that equal parameters stay equal: optax.incremental_update rounds them.
        target_params = {
            name: jax.tree.map(lambda target, p: target + tau * (p - target), value, params[name])
            for name, value in state.target_params.items()
        }
        return changes | {"target_params": target_params}, metrics


def reward_unit(options: OfflineOptions, spec: DataSpec) -> float:
    """The unit in which the algorithm sees rewards."""
    return spec.reward_mean_std[1] if options.normalize_reward else 1.0


def require_ensemble(model: WorldModel, option: str) -> None:
    """Raises ConfigError, naming `option`, for a model without members."""
    if not isinstance(model, EnsembleModel):
        accepted = names("model", lambda family: issubclass(family, EnsembleModel))
        raise ConfigError(
            f"{option} requires a model with several members; accepted: model={accepted}"
        )


def mean(values: jax.Array, batch: Transition) -> jax.Array:
    """The mean () of values (..., N) over the transitions of a batch that are not padding."""
    weight = jnp.broadcast_to(batch.weight, values.shape)
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def dataset_only(batch: Transition) -> Transition:
    """The batch with imagined transitions as padding."""
    return batch._replace(weight=batch.weight * ~batch.imagined)


def known_targets(batch: Transition) -> Transition:
    """The batch for temporal differences: with transitions as padding whose next observation was
    not logged. A terminal one needs none.
    """
    if batch.next_observed is None:
        return batch
    return batch._replace(weight=batch.weight * (batch.next_observed | (batch.terminal > 0)))


def critic_loss(values: jax.Array, target: jax.Array, batch: Transition) -> Loss:
    """Mean squared error of all critics' values (K, N) to one target (N,), summed over critics."""
    batch = known_targets(batch)
    loss = mean(jnp.square(values - target), batch) * values.shape[0]
    return loss, {"loss/critic": loss, "policy/value": mean(values, batch)}


def _run_when_due(
    state: TrainState, step: UpdateStep, run: Callable[[], tuple[Changes, Metrics]]
) -> tuple[Changes, Metrics]:
    """`run` in the updates in which `step` is due. Its metrics are multiplied by `every` there and
    0 elsewhere, so that their mean over a log interval is the mean over the updates that ran.

    The condition returns only what may change, because XLA copies all of it.
    """
    changes, metrics = jax.eval_shape(run)

    def now() -> tuple[Changes, Metrics]:
        changes, metrics = run()
        return changes, jax.tree.map(lambda x: x * step.every, metrics)

    def skip() -> tuple[Changes, Metrics]:
        same = {k: {name: getattr(state, k)[name] for name in v} for k, v in changes.items()}
        return same, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), metrics)

    return jax.lax.cond(step.due(state.step), now, skip)
