"""DreamerV3's actor-critic (arXiv 2301.04104, eq. 6-12), trained on imagined rollouts.

Two learners share its losses. `ActorCriticLearner` trains actor and critic on a frozen model.
`JointLearner` trains the model at the same time, with one optimizer for everything, as DreamerV3
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from worldmodel.config import PolicyOptions, option
from worldmodel.config.registry import register
from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination import imagine, time_major
from worldmodel.models import ModelBuilder, State, WorldModel
from worldmodel.nn.distributions import TwoHot
from worldmodel.nn.heads import ActionHead, ScalarHead
from worldmodel.nn.layout import over_time, sum_over_time
from worldmodel.nn.learner import (
    Metrics,
    Params,
    TrainState,
    apply_gradients,
    create_train_state,
    detached,
    graphdefs_of,
    split_module,
)
from worldmodel.policies.networks import Nets, merge_nets
from worldmodel.policies.returns import lambda_returns, update_scale


@dataclass
class ActorCriticOptions(PolicyOptions):
    """DreamerV3's actor-critic, trained on imagined rollouts."""

    name: str = option("actor_critic", "policy algorithm")
    hidden: int | None = option(None, "units of hidden layers (null: the model preset's)", low=1)
    layers: int = option(3, "hidden layers of actor and critic", low=1)
    horizon: int = option(15, "steps of an imagined rollout", low=1)
    discount: float = option(1 - 1 / 333, "discount per step", low=0.0, high=1.0)
    lambda_: float = option(0.95, "lambda of the lambda-return", low=0.0, high=1.0)
    entropy_scale: float = option(3e-4, "weight of the policy's entropy", low=0.0)
    actor_grad: str = option(
        "reinforce",
        "gradient of the actor; dynamics: through the model, continuous actions only",
        choices=("reinforce", "dynamics"),
    )
    return_norm_rate: float = option(0.01, "update rate of the return's range", low=0.0, high=1.0)
    tau: float = option(0.02, "update rate of the target critic", low=0.0, high=1.0)
    target_regularization_scale: float = option(
        1.0, "weight of the regularization of the critic towards the target critic", low=0.0
    )
    replay_scale: float = option(
        0.3, "weight of the critic's loss on dataset rewards (joint training only)", low=0.0
    )

    @property
    def imagined_horizon(self) -> int:
        return self.horizon


class ImaginationAux(NamedTuple):
    """Auxiliary outputs of `imagination_loss`.

    first_return: (B,) return from each start, without gradient
    statistics: updated running statistics
    """

    first_return: jax.Array
    statistics: dict[str, jax.Array]
    metrics: Metrics


class StateValue(nnx.Module):
    """features (..., F) -> mean (...) of the critic's distribution."""

    def __init__(self, critic: ScalarHead, discount: float):
        self.critic, self.discount = critic, discount

    def __call__(self, features: jax.Array) -> jax.Array:
        return self.critic(features).mean()


def build_heads(
    options: ActorCriticOptions,
    model: WorldModel,
    action: ActionSpec,
    key: jax.Array,
    dtype: jnp.dtype,
) -> tuple[ActionHead, ScalarHead]:
    """A new actor and critic over the model's features."""
    if options.actor_grad == "dynamics" and action.kind != "continuous":
        raise ConfigError(
            f"policy.actor_grad=dynamics requires continuous actions, and this dataset has "
            f"{action.kind} ones; accepted: policy.actor_grad=reinforce"
        )
    units = options.hidden or model.hidden_size
    rngs = nnx.Rngs(params=key)
    actor = ActionHead(model.feature_size, action, units, options.layers, rngs=rngs, dtype=dtype)
    critic = ScalarHead(model.feature_size, units, options.layers, rngs=rngs, dtype=dtype)
    return actor, critic


def imagination_loss(
    options: ActorCriticOptions,
    nets: Nets,
    start: State,
    alive: jax.Array,
    statistics: dict[str, jax.Array],
    key: jax.Array,
) -> tuple[jax.Array, ImaginationAux]:
    """Loss of actor and critic on rollouts from `start` (B, ...).

    nets: `model`, `actor`, `critic` and `target_critic`
    alive: (B,) 0.0 for starts at which the episode has ended or that are padding, else 1.0

    Arrays inside are time-major, (H, B), as the rollout is generated.
    """
    actor, critic = nets["actor"], nets["critic"]
    through_model = options.actor_grad == "dynamics"
    rollout = time_major(
        imagine(
            nets["model"],
            jax.lax.stop_gradient(start),
            # With `reinforce`, actions are samples without a gradient.
            actor if through_model else detached(actor),
            options.horizon,
            key,
        )
    )
    if not through_model:
        rollout = jax.lax.stop_gradient(rollout)
    discounts = rollout.continues * options.discount
    # Targets are constants; only `dynamics` takes the gradient of the values in the features.
    fixed_critic = detached(critic)
    values = over_time(lambda features: fixed_critic(features).mean(), rollout.features)
    returns = lambda_returns(rollout.rewards, discounts, values, options.lambda_)
    targets = jax.lax.stop_gradient(returns)
    statistics, scale = update_scale(statistics, targets, options.return_norm_rate)
    advantage = jax.lax.stop_gradient((targets - values[:-1]) / scale)
    # A step is weighted by the product of the discounts that led to it.
    weight = jnp.cumprod(jnp.concatenate([alive[None], discounts[:-1]]), 0)
    weight = jax.lax.stop_gradient(weight)

    actor_graphdef, actor_params = split_module(actor)
    critic_graphdef, critic_params = split_module(critic)

    def losses(
        params: Params, target_params: Params, features: jax.Array, action: jax.Array,
        target: jax.Array, advantage: jax.Array, weight: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """Sums over states (..., B) of the losses of actor and critic."""
        policy = nnx.merge(actor_graphdef, params["actor"])(features)
        value = nnx.merge(critic_graphdef, params["critic"])(features)
        target_value = nnx.merge(critic_graphdef, target_params)(features).mean()
        entropy = policy.entropy()
        objective = policy.log_prob(action) * advantage + options.entropy_scale * entropy
        scale = options.target_regularization_scale
        actor_loss = -(weight * objective).sum()
        critic_loss = (weight * value_loss(value, target, target_value, scale)).sum()
        terms = {"loss/actor": actor_loss, "loss/critic": critic_loss}
        return actor_loss + critic_loss, terms | {"policy/entropy": entropy.sum()}

    features, actions = jax.lax.stop_gradient((rollout.features[:-1], rollout.actions))
    reinforced = jnp.zeros_like(advantage) if through_model else advantage
    summed: Any = sum_over_time(
        losses,
        {"actor": actor_params, "critic": critic_params},
        split_module(nets["target_critic"])[1],
        (features, actions, targets, reinforced, weight),
    )
    total, terms = summed
    loss = total / targets.size
    terms = {name: value / targets.size for name, value in terms.items()}
    if through_model:
        return_loss = -(weight * returns / scale).mean()
        loss, terms["loss/actor"] = loss + return_loss, terms["loss/actor"] + return_loss
    metrics = terms | {
        "policy/return": targets.mean(),
        "policy/return_scale": scale,
        "policy/value": values[:-1].mean(),
        "policy/reward": rollout.rewards.mean(),
        "policy/advantage_abs": jnp.abs(advantage).mean(),
    }
    metrics = jax.lax.stop_gradient(metrics)
    return loss, ImaginationAux(targets[0], statistics, metrics)


def value_loss(
    value: TwoHot, target: jax.Array, target_value: jax.Array, target_regularization_scale: float
) -> jax.Array:
    """Cross-entropy to the target, regularized towards the target critic's value."""
    return value.loss(target) + target_regularization_scale * value.loss(target_value)


def replay_loss(
    options: ActorCriticOptions,
    nets: Nets,
    features: jax.Array,
    window: Window,
    first_return: jax.Array,
) -> jax.Array:
    """The critic's loss on dataset rewards. Lambda-returns bootstrap from the imagined return of
    every state, `first_return` (B, T).
    """
    is_last, is_terminal = window.is_last[:, 1:], window.is_terminal[:, 1:]
    weight = window.mask[:, 1:] & ~window.is_last[:, :-1]
    if window.observed is not None:  # nothing bootstraps from a state that was not observed
        unknown = ~window.observed[:, 1:] & ~is_terminal
        weight = weight & ~unknown
        is_last = is_last | jnp.pad(unknown[:, 1:], ((0, 0), (0, 1)))
    discounts = options.discount * (1.0 - is_terminal)
    lambda_ = options.lambda_ * (1.0 - is_last)
    returns = lambda_returns(window.reward[:, :-1].T, discounts.T, first_return.T, lambda_.T).T
    features = features[:, :-1]
    target_value = jax.lax.stop_gradient(nets["target_critic"](features).mean())
    scale = options.target_regularization_scale
    loss = value_loss(nets["critic"](features), returns, target_value, scale)
    return (weight * loss).mean()


def _flatten(tree: Any) -> Any:
    """(B, T, ...) -> (B x T, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _alive(window: Window) -> jax.Array:
    """(B x T,) 1.0 for steps to imagine from: not padding, and the episode has not ended."""
    return (window.observation_mask & ~window.is_terminal).reshape(-1).astype(jnp.float32)


def _initial_state(
    modules: dict[str, nnx.Module], optimizer: optax.GradientTransformation
) -> TrainState:
    params = {name: split_module(module)[1] for name, module in modules.items()}
    return create_train_state(
        params,
        optimizer,
        target_params={"critic": params["critic"]},
        statistics={"return_range": jnp.zeros(())},
    )


def _update(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    statistics: dict[str, jax.Array],
    tau: float,
) -> tuple[TrainState, Metrics]:
    """An optimizer step, then (1 - tau) theta' + tau theta of the target critic."""
    state, norms = apply_gradients(state, grads, optimizer)
    target_critic = jax.tree.map(
        lambda target, p: (1 - tau) * target + tau * p,
        state.target_params["critic"],
        state.params["critic"],
    )
    return replace(state, target_params={"critic": target_critic}, statistics=statistics), norms


class JointLearner:
    """Trains world model, actor and critic together. The losses of actor and critic have no
    gradient in the model's parameters.
    """

    def __init__(
        self,
        options: ActorCriticOptions,
        build_model: ModelBuilder,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        """build_model: from a key to a new world model"""
        self.options, self.optimizer, self.build_model = options, optimizer, build_model
        self.action, self.dtype = spec.action, dtype
        self.graphdefs = graphdefs_of(self._modules)

    def init(self, key: jax.Array) -> TrainState:
        return jax.jit(lambda key: _initial_state(self._modules(key), self.optimizer))(key)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        grads, (statistics, metrics) = jax.grad(self._loss, has_aux=True)(
            state.params, state, batch, key
        )
        state, norms = _update(state, grads, self.optimizer, statistics, self.options.tau)
        return state, metrics | norms

    def _modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        model_key, heads_key = jax.random.split(key)
        model = self.build_model(model_key)
        actor, critic = build_heads(self.options, model, self.action, heads_key, self.dtype)
        return {"model": model, "actor": actor, "critic": critic}

    def _loss(
        self, params: Params, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[jax.Array, tuple[dict, Metrics]]:
        model_key, imagine_key = jax.random.split(key)
        nets = merge_nets(self.graphdefs, state, params)
        model = nets["model"]
        model_loss, (metrics, states) = model.loss(batch, model_key)
        imagined_loss, imagined = imagination_loss(
            self.options, nets | {"model": detached(model)},
            _flatten(states), _alive(batch), state.statistics, imagine_key,
        )  # fmt: skip
        first_return = imagined.first_return.reshape(batch.shape)
        replayed = replay_loss(self.options, nets, model.features(states), batch, first_return)
        metrics = metrics | imagined.metrics | {"loss/replay": replayed}
        total = model_loss + imagined_loss + self.options.replay_scale * replayed
        return total, (imagined.statistics, metrics)


@register("policy", "actor_critic", ActorCriticOptions, joint=JointLearner)
class ActorCriticLearner:
    """Trains actor and critic on rollouts of a frozen model, from every step of every batch."""

    needs_reward = True
    supports_discrete_actions = True

    def __init__(
        self,
        options: ActorCriticOptions,
        model: WorldModel,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        if not model.has_dynamics:
            raise ConfigError(
                f"policy={options.name} learns from imagined rollouts, and this model has no "
                "dynamics; accepted: another model, or an offline algorithm"
            )
        self.options, self.optimizer = options, optimizer
        self.model, self.action, self.dtype = model, spec.action, dtype
        model_graphdef, self.model_params = split_module(model)
        self.graphdefs = {"model": model_graphdef, **graphdefs_of(self._heads)}

    @staticmethod
    def build_value(
        options: ActorCriticOptions, spec: DataSpec, modules: Mapping[str, Any]
    ) -> StateValue:
        """The value of the policy by its critic, from features (..., F) to (...)."""
        return StateValue(modules["critic"], options.discount)

    def init(self, key: jax.Array) -> TrainState:
        # The model stays outside the compiled function, where it would be a constant; the copy can
        # be donated.
        frozen = {"model": jax.tree.map(jnp.copy, self.model_params)}
        state = jax.jit(lambda key: _initial_state(self._heads(key), self.optimizer))(key)
        return replace(state, frozen=frozen)

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        observe_key, imagine_key = jax.random.split(key)
        model = nnx.merge(self.graphdefs["model"], state.frozen["model"])
        starts = _flatten(model.observe(batch, observe_key))

        def loss(params: Params) -> tuple[jax.Array, ImaginationAux]:
            nets = merge_nets(self.graphdefs, state, params)
            return imagination_loss(
                self.options, nets, starts, _alive(batch), state.statistics, imagine_key
            )

        grads, imagined = jax.grad(loss, has_aux=True)(state.params)
        state, norms = _update(state, grads, self.optimizer, imagined.statistics, self.options.tau)
        return state, imagined.metrics | norms

    def _heads(self, key: jax.Array) -> dict[str, nnx.Module]:
        actor, critic = build_heads(self.options, self.model, self.action, key, self.dtype)
        return {"actor": actor, "critic": critic}
