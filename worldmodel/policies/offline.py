"""What all offline algorithms share: where their rows come from, and how an update runs.

An update takes a share of logged rows from the batch and draws the others from a buffer of imagined
ones; then every part learns in turn, from its own loss. An algorithm gives its modules, its losses
and their order. Every so many updates `collect_rollouts` imagines anew, from many logged states under the
policy as it is then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination import replay_buffer
from worldmodel.imagination.transitions import (
    Transition,
    transition_shapes,
    transitions_from_window,
)
from worldmodel.models import WorldModel
from worldmodel.nn.learner import Metrics, Params, TrainState, graphdefs_of, split_module
from worldmodel.policies.networks import Critics
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.synthetic import generate_transitions, rollout_statistic_names

Nets = Mapping[str, nnx.Module]
# What a step changes of a `TrainState`: field -> name of a module -> its new value.
Learned = dict[str, Params]
Loss = Callable[[Nets, Transition, jax.Array], tuple[jax.Array, Metrics]]
TARGET = "target_"  # before the name of a module: its slow copy


class UpdateStep(NamedTuple):
    """Modules that learn together from one loss: once in `every` updates, from update `begin` on,
    before `end`.
    """

    modules: tuple[str, ...]
    loss: Loss
    every: int = 1
    begin: int = 0
    end: int | None = None

    @property
    def always(self) -> bool:
        return (self.every, self.begin, self.end) == (1, 0, None)

    def due(self, step: jax.Array) -> jax.Array:
        """Whether it is done in update number `step`, from 0."""
        within = (step >= self.begin) & (step < (2**31 - 1 if self.end is None else self.end))
        return within & (step % self.every == self.every - 1)


class OfflineLearner:
    """Trains a policy on logged rows, on rows that a frozen model imagines, or on both."""

    needs_reward: ClassVar[bool] = True  # from the logs

    targets: ClassVar[tuple[str, ...]] = ("critic",)  # modules with slow copies

    def __init__(
        self,
        options: OfflineOptions,
        model: WorldModel,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        if spec.action.discrete:
            raise ConfigError(
                f"policy={options.name} takes continuous actions, these logs have discrete ones; "
                "accepted here: policy=actor_critic"
            )
        self.options, self.model, self.spec, self.dtype = options, model, spec, dtype
        self.reward_unit = spec.reward_mean_std[1] if options.normalize_reward else 1.0
        self.uses_rollouts = options.real_ratio < 1
        self.rollout_every = options.rollout_every if self.uses_rollouts else 0
        self.rollout_windows = options.rollout_batch_size
        if self.uses_rollouts and options.penalty != "none":
            require_ensemble(model, f"policy.penalty={options.penalty}")
        if self.uses_rollouts and options.truncation_quantile is not None:
            require_ensemble(model, f"policy.truncation_quantile={options.truncation_quantile:g}")
        self.optimizer = optimizer
        self.actor_optimizer = optax.chain(optimizer, optax.scale(options.actor_lr_scale))
        model_definition, self.model_params = split_module(model)
        self.graphdefs = {"model": model_definition, **graphdefs_of(self.modules)}

    # ------------------------------------------------------------------- what an algorithm gives

    def modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        """New modules, `actor` among them."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its modules are")

    def update_steps(self) -> tuple[UpdateStep, ...]:
        """What an update does, in order. Slow copies follow together with the last step."""
        raise NotImplementedError(f"{type(self).__name__} does not say what an update does")

    # ------------------------------------------------------------------------------- the learner

    def init(self, key: jax.Array) -> TrainState:
        # The model stays outside the compiled part, where it would be a constant.
        frozen = {"model": jax.tree.map(jnp.copy, self.model_params)}
        return replace(jax.jit(self._fresh)(key), frozen=frozen)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        rows_key, key = jax.random.split(key)
        rows, metrics = self._rows(state, batch, rows_key)
        steps = self.update_steps()
        for number, step in enumerate(steps):
            learn = partial(self._learn, state, step, rows, jax.random.fold_in(key, number))
            if number == len(steps) - 1:
                learn = partial(self._followed, state, learn)
            learned, more = learn() if step.always else _when_due(state, step, learn)
            state = replace(state, **{k: getattr(state, k) | v for k, v in learned.items()})
            metrics |= more
        return replace(state, step=state.step + 1), metrics | state.statistics

    def collect_rollouts(self, state: TrainState, windows: Window, key: jax.Array) -> TrainState:
        """Imagines anew from `windows` (N, 2 or more rows), and forgets the oldest refresh."""
        nets = self._nets(state)
        made = generate_transitions(
            self.options, self.spec, nets["model"], nets["actor"], windows, key
        )
        memory = replay_buffer.add(state.replay_buffer, made.rows, made.valid)
        return replace(state, replay_buffer=memory, statistics=made.statistics)

    # ---------------------------------------------------------------------------------- its parts

    def network(self, kind: Callable[..., Any], rngs: nnx.Rngs, outputs: int = 0) -> nnx.Module:
        """A network over features, of as many outputs as actions have dimensions, unless told."""
        sizes = (self.model.feature_size, outputs or self.spec.action.size)
        return kind(*sizes, self.options.units, self.options.layers, rngs=rngs, dtype=self.dtype)

    def critics(self, count: int, rngs: nnx.Rngs, layer_norm: bool = False) -> Critics:
        sizes = (self.model.feature_size, self.spec.action.size)
        return Critics(
            count, *sizes, self.options.units, self.options.layers,
            rngs=rngs, dtype=self.dtype, layer_norm=layer_norm,
        )  # fmt: skip

    def _fresh(self, key: jax.Array) -> TrainState:
        params = {name: split_module(module)[1] for name, module in self.modules(key).items()}
        optimizer = {name: self._optimizer(name).init(value) for name, value in params.items()}
        slow = {name: params[name] for name in self.targets if name in params}
        statistics, memory = {}, ()
        if self.uses_rollouts:
            statistics = {name: jnp.zeros(()) for name in rollout_statistic_names(self.options)}
            row = transition_shapes(self.model.feature_size, self.spec.action.size)
            rows = self.options.rollout_batch_size * self.options.horizon
            memory = replay_buffer.empty(row, rows, self.options.rollout_retain)
        step = jnp.zeros((), jnp.int32)
        return TrainState(params, {}, optimizer, slow, statistics, step, memory)

    def _optimizer(self, name: str) -> optax.GradientTransformation:
        return self.actor_optimizer if name == "actor" else self.optimizer

    def _nets(self, state: TrainState, params: Params | None = None) -> dict[str, nnx.Module]:
        """All modules and their slow copies; `params` take the place of the state's."""
        known = state.frozen | state.params | (params or {})
        nets = {name: nnx.merge(d, known[name]) for name, d in self.graphdefs.items()}
        for name, slow in state.target_params.items():
            nets[TARGET + name] = nnx.merge(self.graphdefs[name], slow)
        return nets

    def _rows(self, state: TrainState, batch: Window, key: jax.Array) -> tuple[Transition, Metrics]:
        """The rows of an update, logged ones first, with rewards in their unit."""
        logged_key, imagined_key = jax.random.split(key)
        model = nnx.merge(self.graphdefs["model"], (state.frozen | state.params)["model"])
        rows = transitions_from_window(model, batch, logged_key)
        if self.uses_rollouts:
            total = rows.reward.shape[0]
            real = round(self.options.real_ratio * total)
            drawn = replay_buffer.sample(state.replay_buffer, imagined_key, total - real)
            rows = jax.tree.map(lambda x, y: jnp.concatenate([x[:real], y]), rows, drawn)
        rows = rows._replace(reward=rows.reward / self.reward_unit)
        return jax.lax.stop_gradient(rows), {"policy/reward": mean(rows.reward, rows)}

    def _learn(
        self, state: TrainState, step: UpdateStep, rows: Transition, key: jax.Array
    ) -> tuple[Learned, Metrics]:
        """One optimiser step of the modules of `step`."""

        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            return step.loss(self._nets(state, params), rows, key)

        params = {name: state.params[name] for name in step.modules}
        grads, metrics = jax.grad(loss, has_aux=True)(params)
        kept = {}
        for name in step.modules:
            optimizer = self._optimizer(name)
            updates, kept[name] = optimizer.update(grads[name], state.opt_state[name], params[name])
            params[name] = optax.apply_updates(params[name], updates)
        return {"params": params, "opt_state": kept}, metrics

    def _followed(
        self, state: TrainState, learn: Callable[[], tuple[Learned, Metrics]]
    ) -> tuple[Learned, Metrics]:
        """What `learn` gives, and slow copies a little nearer to what they follow."""
        learned, metrics = learn()
        params, rate = state.params | learned["params"], self.options.tau
        slow = {
            name: jax.tree.map(lambda s, p: s + rate * (p - s), value, params[name])
            for name, value in state.target_params.items()
        }
        return learned | {"target_params": slow}, metrics


def require_ensemble(model: WorldModel, who: str) -> None:
    """Raises ConfigError if the model has no members that could disagree."""
    if type(model).predict_members is WorldModel.predict_members:
        raise ConfigError(
            f"{who} needs a model that predicts with several members; accepted: model=ensemble"
        )


def mean(values: jax.Array, rows: Transition) -> jax.Array:
    """The mean of values (..., N) over rows that are no padding."""
    weight = jnp.broadcast_to(rows.weight, values.shape)
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def critic_loss(
    values: jax.Array, target: jax.Array, rows: Transition
) -> tuple[jax.Array, Metrics]:
    """Squared distance of all critics' values (K, N) from one target (N,), summed over critics."""
    loss = mean(jnp.square(values - target), rows) * values.shape[0]
    return loss, {"loss/critic": loss, "policy/value": mean(values, rows)}


def _when_due(
    state: TrainState, step: UpdateStep, learn: Callable[[], tuple[Learned, Metrics]]
) -> tuple[Learned, Metrics]:
    """`learn` in some of the updates. Its metrics count `every` times there and are 0 elsewhere, so
    that their mean over a log interval is theirs.

    Only what may change comes out of the condition: all of that is copied.
    """
    learned, metrics = jax.eval_shape(learn)

    def now() -> tuple[Learned, Metrics]:
        learned, metrics = learn()
        return learned, jax.tree.map(lambda x: x * step.every, metrics)

    def later() -> tuple[Learned, Metrics]:
        same = {k: {name: getattr(state, k)[name] for name in v} for k, v in learned.items()}
        return same, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), metrics)

    return jax.lax.cond(step.due(state.step), now, later)
