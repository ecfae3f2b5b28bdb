"""DreamerV3's actor-critic (arXiv 2301.04104, eq. 6-12): learned on rollouts that a world model
imagines.

Two learners share its losses. `ActorCriticLearner` trains actor and critic on a frozen model.
`JointLearner` trains the model at the same time, with one optimiser for everything, as DreamerV3
does.
"""

from __future__ import annotations

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
from worldmodel.policies.returns import lambda_returns, update_scale


class ImaginationAux(NamedTuple):
    """What the losses on one batch of rollouts give besides their sum.

    first_return: (B,) return of each start, no gradient; statistics: updated running statistics.
    """

    first_return: jax.Array
    statistics: dict[str, jax.Array]
    metrics: Metrics


def build_heads(
    options: ActorCriticOptions,
    model: WorldModel,
    action: ActionSpec,
    key: jax.Array,
    dtype: jnp.dtype,
) -> tuple[ActionHead, ScalarHead]:
    """A new actor and critic over the model's features."""
    if options.actor_grad == "dynamics" and action.discrete:
        raise ConfigError(
            "policy.actor_grad=dynamics needs continuous actions, these logs have discrete ones; "
            "accepted here: reinforce"
        )
    units = options.hidden or model.hidden_size
    rngs = nnx.Rngs(params=key)
    actor = ActionHead(model.feature_size, action, units, options.layers, rngs=rngs, dtype=dtype)
    critic = ScalarHead(model.feature_size, units, options.layers, rngs=rngs, dtype=dtype)
    return actor, critic


def imagination_loss(
    options: ActorCriticOptions,
    model: WorldModel,
    actor: ActionHead,
    critic: ScalarHead,
    target_critic: ScalarHead,
    start: State,
    alive: jax.Array,
    statistics: dict[str, jax.Array],
    key: jax.Array,
) -> tuple[jax.Array, ImaginationAux]:
    """Loss of actor and critic on rollouts from `start` (B, ...); `alive` (B,) is 0 where nothing
    can follow.

    Arrays inside have time first: (H, B), as the rollout is made.
    """
    through_model = options.actor_grad == "dynamics"
    rollout = time_major(
        imagine(
            model,
            jax.lax.stop_gradient(start),
            # Reinforced actions are samples, no function of the actor.
            actor if through_model else detached(actor),
            options.horizon,
            key,
        )
    )
    if not through_model:
        rollout = jax.lax.stop_gradient(rollout)
    discounts = rollout.continues * options.discount
    # What the losses aim at is fixed; only dynamics back-propagation looks through the values at
    # the model.
    fixed_critic = detached(critic)
    values = over_time(lambda features: fixed_critic(features).mean(), rollout.features)
    returns = lambda_returns(rollout.rewards, discounts, values, options.lambda_)
    targets = jax.lax.stop_gradient(returns)
    statistics, scale = update_scale(statistics, targets, options.return_norm_rate)
    advantage = jax.lax.stop_gradient((targets - values[:-1]) / scale)
    # A step weighs what is left of its start: the product of the discounts that led to it.
    reach = jnp.cumprod(jnp.concatenate([alive[None], discounts[:-1]]), 0)
    reach = jax.lax.stop_gradient(reach)

    (actor_definition, actor_params), (critic_definition, critic_params) = map(
        split_module, (actor, critic)
    )

    def losses(
        params: Params, slow: Params, features: jax.Array, action: jax.Array,
        target: jax.Array, advantage: jax.Array, reach: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
        """Sums over states (..., B) of the losses of actor and critic."""
        policy = nnx.merge(actor_definition, params["actor"])(features)
        value = nnx.merge(critic_definition, params["critic"])(features)
        pull = nnx.merge(critic_definition, slow)(features).mean()
        entropy = policy.entropy()
        gain = policy.log_prob(action) * advantage + options.entropy_scale * entropy
        terms = {
            "loss/actor": -(reach * gain).sum(),
            "loss/critic": (
                reach * value_loss(value, target, pull, options.target_regularization_scale)
            ).sum(),
        }
        return sum(terms.values()), terms | {"policy/entropy": entropy.sum()}

    features, actions = jax.lax.stop_gradient((rollout.features[:-1], rollout.actions))
    reinforced = jnp.zeros_like(advantage) if through_model else advantage
    total, terms = sum_over_time(
        losses,
        {"actor": actor_params, "critic": critic_params},
        split_module(target_critic)[1],
        (features, actions, targets, reinforced, reach),
    )
    loss = total / targets.size
    terms = {name: value / targets.size for name, value in terms.items()}
    if through_model:
        gained = -(reach * returns / scale).mean()
        loss, terms["loss/actor"] = loss + gained, terms["loss/actor"] + gained
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
    value: TwoHot, target: jax.Array, slow: jax.Array, target_regularization_scale: float
) -> jax.Array:
    """Cross-entropy to the target plus a pull towards the slow critic."""
    return value.loss(target) + target_regularization_scale * value.loss(slow)


def replay_loss(
    options: ActorCriticOptions,
    critic: ScalarHead,
    target_critic: ScalarHead,
    features: jax.Array,
    window: Window,
    first_return: jax.Array,
) -> jax.Array:
    """The critic's loss on logged rewards, bootstrapped at every row (B, T) by that state's
    imagined return.
    """
    arrived_last, arrived_end = window.is_last[:, 1:], window.is_terminal[:, 1:]
    discounts = options.discount * (1.0 - arrived_end)
    lambda_ = options.lambda_ * (1.0 - arrived_last)
    returns = lambda_returns(window.reward[:, :-1].T, discounts.T, first_return.T, lambda_.T).T
    features = features[:, :-1]
    slow = jax.lax.stop_gradient(target_critic(features).mean())
    loss = value_loss(critic(features), returns, slow, options.target_regularization_scale)
    weight = window.mask[:, 1:] & ~window.is_last[:, :-1]
    return (weight * loss).mean()


def _flatten(tree: Any) -> Any:
    """(B, T, ...) -> (B x T, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _alive(window: Window) -> jax.Array:
    """(B x T,) 1.0 for rows from which imagination may start: real ones at which the episode had
    not ended.
    """
    return (window.mask & ~window.is_terminal).reshape(-1).astype(jnp.float32)


def _track(slow: Params, online: Params, rate: float) -> Params:
    return jax.tree.map(lambda s, o: (1 - rate) * s + rate * o, slow, online)


@dataclass
class ActorCriticOptions(PolicyOptions):
    """DreamerV3's actor-critic, trained on imagined rollouts."""

    name: str = option("actor_critic", "policy algorithm")
    hidden: int | None = option(
        None, "units of every hidden layer (none: a preset's, by the model)", low=1
    )
    layers: int = option(3, "hidden layers of actor and critic", low=1)
    horizon: int = option(15, "imagined steps from every start", low=1)
    discount: float = option(1 - 1 / 333, "discount per step", low=0.0, high=1.0)
    lambda_: float = option(0.95, "lambda of the lambda-return", low=0.0, high=1.0)
    entropy_scale: float = option(3e-4, "weight of the policy's entropy", low=0.0)
    actor_grad: str = option(
        "reinforce",
        "how the actor learns; dynamics: through the model, continuous actions only",
        choices=("reinforce", "dynamics"),
    )
    return_norm_rate: float = option(
        0.01, "rate of the running percentiles of the return", low=0.0, high=1.0
    )
    tau: float = option(0.02, "rate of the slow critic", low=0.0, high=1.0)
    target_regularization_scale: float = option(
        1.0, "weight of the pull towards the slow critic", low=0.0
    )
    replay_scale: float = option(
        0.3, "weight of the critic's loss on logged rewards (joint training only)", low=0.0
    )

    @property
    def imagined_horizon(self) -> int:
        return self.horizon


@register("policy", "actor_critic", ActorCriticOptions)
class ActorCriticLearner:
    """Trains actor and critic on rollouts of a frozen model, from every row of every batch."""

    needs_reward = True

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
                f"policy={options.name} learns in imagination alone, and this family of models has "
                "no dynamics; accepted: another family, or a policy that learns from logs"
            )
        self.options, self.optimizer = options, optimizer
        self.model, self.action, self.dtype = model, spec.action, dtype
        model_definition, self.model_params = split_module(model)
        self.graphdefs = {"model": model_definition, **graphdefs_of(self._heads)}

    def init(self, key: jax.Array) -> TrainState:
        # The model stays outside the compiled part, where it would be a constant; the copy can be
        # donated.
        frozen = {"model": jax.tree.map(jnp.copy, self.model_params)}
        return replace(jax.jit(self._fresh)(key), frozen=frozen)

    def _heads(self, key: jax.Array) -> dict[str, nnx.Module]:
        actor, critic = build_heads(self.options, self.model, self.action, key, self.dtype)
        return {"actor": actor, "critic": critic}

    def _fresh(self, key: jax.Array) -> TrainState:
        params = {name: split_module(module)[1] for name, module in self._heads(key).items()}
        return create_train_state(
            params,
            self.optimizer,
            target_params={"critic": params["critic"]},
            statistics={"return_range": jnp.zeros(())},
        )

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        observe_key, imagine_key = jax.random.split(key)
        model = nnx.merge(self.graphdefs["model"], state.frozen["model"])
        starts = _flatten(model.observe(batch, observe_key))

        def loss(params: Params) -> tuple[jax.Array, ImaginationAux]:
            actor = nnx.merge(self.graphdefs["actor"], params["actor"])
            critic = nnx.merge(self.graphdefs["critic"], params["critic"])
            slow = nnx.merge(self.graphdefs["critic"], state.target_params["critic"])
            return imagination_loss(
                self.options, model, actor, critic, slow,
                starts, _alive(batch), state.statistics, imagine_key,
            )  # fmt: skip

        grads, imagined = jax.grad(loss, has_aux=True)(state.params)
        state, norms = apply_gradients(state, grads, self.optimizer)
        slow = _track(state.target_params["critic"], state.params["critic"], self.options.tau)
        state = replace(state, target_params={"critic": slow}, statistics=imagined.statistics)
        return state, imagined.metrics | norms


@register("joint", "actor_critic", ActorCriticOptions)
class JointLearner:
    """Trains world model, actor and critic together; imagination does not move the model."""

    def __init__(
        self,
        options: ActorCriticOptions,
        build_model: ModelBuilder,
        spec: DataSpec,
        optimizer: optax.GradientTransformation,
        dtype: jnp.dtype,
    ):
        """`build_model(key)` makes a new world model."""
        self.options, self.optimizer, self.build_model = options, optimizer, build_model
        self.action, self.dtype = spec.action, dtype
        self.graphdefs = graphdefs_of(self._modules)

    def init(self, key: jax.Array) -> TrainState:
        return jax.jit(self._fresh)(key)

    def _fresh(self, key: jax.Array) -> TrainState:
        params = {name: split_module(module)[1] for name, module in self._modules(key).items()}
        return create_train_state(
            params,
            self.optimizer,
            target_params={"critic": params["critic"]},
            statistics={"return_range": jnp.zeros(())},
        )

    def update(
        self, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        def loss(params: Params) -> tuple[jax.Array, tuple[dict, Metrics]]:
            return self._loss(params, state, batch, key)

        grads, (statistics, metrics) = jax.grad(loss, has_aux=True)(state.params)
        state, norms = apply_gradients(state, grads, self.optimizer)
        slow = _track(state.target_params["critic"], state.params["critic"], self.options.tau)
        return replace(
            state, target_params={"critic": slow}, statistics=statistics
        ), metrics | norms

    def _modules(self, key: jax.Array) -> dict[str, nnx.Module]:
        model_key, heads_key = jax.random.split(key)
        model = self.build_model(model_key)
        actor, critic = build_heads(self.options, model, self.action, heads_key, self.dtype)
        return {"model": model, "actor": actor, "critic": critic}

    def _loss(
        self, params: Params, state: TrainState, batch: Window, key: jax.Array
    ) -> tuple[jax.Array, tuple[dict, Metrics]]:
        model_key, imagine_key = jax.random.split(key)
        modules = {name: nnx.merge(self.graphdefs[name], p) for name, p in params.items()}
        slow = nnx.merge(self.graphdefs["critic"], state.target_params["critic"])
        model_loss, (metrics, states) = modules["model"].loss(batch, model_key)
        imagined_loss, imagined = imagination_loss(
            self.options, detached(modules["model"]), modules["actor"], modules["critic"], slow,
            _flatten(states), _alive(batch), state.statistics, imagine_key,
        )  # fmt: skip
        replayed = replay_loss(
            self.options, modules["critic"], slow, modules["model"].features(states), batch,
            imagined.first_return.reshape(batch.shape),
        )  # fmt: skip
        metrics = metrics | imagined.metrics | {"loss/replay": replayed}
        total = model_loss + imagined_loss + self.options.replay_scale * replayed
        return total, (imagined.statistics, metrics)
