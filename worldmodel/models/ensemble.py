"""The probabilistic ensemble of MBPO and MOPO (Janner et al., arXiv 1906.08253; Yu et al., arXiv
2005.13239), for vectors.

Each member predicts a normal distribution of an action's outcome: the change of the point and the
reward. Members differ by their initial parameters and their bootstrap samples. A share of the
transitions is held out from all of them to select the best parameters of each member during
training (`BestMembersLearner`) and the best members, the elites, which rollouts are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import Config, ModelOptions, option
from worldmodel.config.registry import register
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.models import termination
from worldmodel.models.interface import EnsembleModel, Metrics, State, Step
from worldmodel.models.latent import arrival_reward, has_predecessor, masked_mean, require_reward
from worldmodel.models.unobserved import predict_unobserved
from worldmodel.nn.actions import action_vector
from worldmodel.nn.bootstrap import hash_vectors, held_out, poisson_weights
from worldmodel.nn.distributions import Bernoulli, Distribution, Normal, ScalarMSE
from worldmodel.nn.ensemble_layers import GaussianEnsemble, select_members
from worldmodel.nn.heads import BinaryHead
from worldmodel.nn.vectors import Vectors, typical_change

BOUNDS_SCALE = 0.01  # weight of the width between the bounds of the variance
CERTAIN = 50.0  # the logit of a termination rule: 1e-22 away from 0 or 1
# Keys of steps are numbered from 0; this one is for what is sampled once per rollout.
ONCE = 2**31


class EnsembleState(NamedTuple):
    """point: (..., D); reward: (...), of the action that led here, 0 if unknown."""

    point: jax.Array
    reward: jax.Array


class EnsembleBatch(NamedTuple):
    """The N = B (T - 1) transitions of a batch of windows (B, T).

    inputs: (N, I)
    targets: (N, D + 1)
    learned: (N,) bool, those to learn from
    weights: (M, N), bootstrap weights of each member
    held_out: (N,) bool, those on which members are evaluated
    observed: (N,) bool, those whose next observation was logged; None: all
    """

    inputs: jax.Array
    targets: jax.Array
    learned: jax.Array
    weights: jax.Array
    held_out: jax.Array
    observed: jax.Array | None = None


# preset -> members, elites, units and hidden layers; `mopo` as published.
ENSEMBLE_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (5, 3, 64, 2),
    "small": (5, 3, 128, 3),
    "mopo": (7, 5, 200, 4),
}


@dataclass
class EnsembleOptions(ModelOptions):
    """Several networks, each predicting a normal distribution of the change in a step."""

    name: str = option("ensemble", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENSEMBLE_PRESETS)
    )
    num_members: int | None = option(None, "networks", low=1)
    num_elites: int | None = option(
        None, "members that rollouts are drawn from: the best on held-out transitions", low=1
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    layers: int | None = option(None, "hidden layers of each member", low=1)
    layer_norm: bool = option(True, "LayerNorm in every hidden layer")
    standardize_outputs: bool = option(
        True, "predict in units of the typical change in a step, not in raw units"
    )
    bootstrap: bool = option(True, "train every member on its own bootstrap sample")
    holdout_ratio: float = option(
        0.05,
        "share of held-out transitions, to select each member's best parameters (0: the last)",
        low=0.0,
        high=0.5,
    )
    weight_decay: float = option(
        1e-4, "L2 weight of the output layer; hidden ones have 1/4, 1/2, then 3/4 of it", low=0.0
    )
    termination: str = option(
        "learned",
        "how ends are predicted: by a learned head, by the rule of a MuJoCo environment, or never",
        choices=("learned", "halfcheetah", "hopper", "walker2d", "never"),
    )
    member_sampling: str = option(
        "step",
        "draw a random elite for every step, or for a whole rollout",
        choices=("step", "rollout"),
        sampling=True,
    )

    @property
    def ensemble_size(self) -> tuple[int, int]:
        return self.sizes()[:2]

    @property
    def uses_best_snapshot(self) -> bool:
        return self.holdout_ratio > 0

    def sizes(self) -> tuple[int, int, int, int]:
        """Members, elites, units and layers."""
        members, elites, units, layers = ENSEMBLE_PRESETS[self.preset]
        return (
            self.num_members or members,
            self.num_elites or elites,
            self.units or units,
            self.layers or layers,
        )

    def errors(self, config: Config) -> Iterator[str]:
        members, elites, _, _ = self.sizes()
        if elites > members:
            yield (
                f"model.num_elites={elites}: elites are chosen among model.num_members={members}; "
                "accepted: at most as many"
            )
        if not self.holdout_ratio:
            return
        if self.ema_decay:
            yield (
                f"model.ema_decay={self.ema_decay:g}: with model.holdout_ratio="
                f"{self.holdout_ratio:g}, each member's best parameters are used, not an average; "
                "accepted: model.ema_decay=0 or model.holdout_ratio=0"
            )
        if config.training.joint:
            yield (
                f"model.holdout_ratio={self.holdout_ratio:g}: with training.joint=true, the policy "
                "learns with the last parameters, not with each member's best; accepted: "
                "model.holdout_ratio=0"
            )


@register("model", "ensemble", EnsembleOptions)
class Ensemble(EnsembleModel):
    """p(change of the point, reward | point, action) by several networks.

    errors: (M,) mean squared errors on held-out transitions, 0 before the first evaluation
    salt: () an integer, by which held-out data and bootstrap samples differ between seeds
    """

    supports_images = False

    def __init__(
        self, options: EnsembleOptions, spec: DataSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype
    ):
        self.vectors, self.has_reward = Vectors.of(spec, standardized=True), spec.has_reward
        self.change = typical_change(spec)
        validate(options, spec)
        self.size, self.num_elites, units, layers = options.sizes()
        self.options, self.action, self.reward_spec = options, spec.action, spec.reward_mean_std
        self.feature_size, self.hidden_size = self.vectors.size, units
        inputs = self.feature_size + spec.action.vector_size
        outputs = self.feature_size + int(spec.has_reward)
        self.networks = GaussianEnsemble(
            self.size, inputs, outputs, units, layers, options.layer_norm, rngs=rngs, dtype=dtype
        )
        learned = options.termination == "learned"
        head = BinaryHead(self.feature_size, units, 1, rngs=rngs, dtype=dtype) if learned else None
        self.terminal_head = head
        self.errors = nnx.Variable(jnp.zeros(self.size, jnp.float32))
        # A float, like all parameters.
        self.salt = nnx.Variable(jnp.floor(2**24 * jax.random.uniform(rngs.params())))

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> EnsembleState:
        return EnsembleState(jnp.zeros((*batch, self.feature_size)), jnp.zeros(batch))

    def features(self, state: EnsembleState) -> jax.Array:
        return state.point

    def observation(self, state: EnsembleState) -> Mapping[str, Distribution]:
        return self.vectors.predict(state.point)

    def reward(self, state: EnsembleState) -> ScalarMSE:
        require_reward(self.has_reward)
        return ScalarMSE(state.reward, self.reward_spec[1])

    def terminal(self, state: EnsembleState) -> Bernoulli:
        """The end of an episode is a function of the point."""
        if self.terminal_head is not None:
            return self.terminal_head(state.point)
        raw = state.point * jnp.asarray(self.vectors.scale) + jnp.asarray(self.vectors.shift)
        ended = termination.RULES[self.options.termination](raw)
        return Bernoulli(jnp.where(ended, CERTAIN, -CERTAIN))

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: EnsembleState | None = None,
        action: jax.Array | None = None,
    ) -> EnsembleState:
        states = self._states(window)
        predicted = predict_unobserved(self, states, window, key, state, action)
        return states._replace(point=jax.lax.stop_gradient(predicted.point))

    def step(self, state: EnsembleState, action: jax.Array, key: jax.Array) -> EnsembleState:
        member_key, key = jax.random.split(key)
        return self._step(state, action, key, self._assign_members(state, member_key))

    def make_step(self, state: EnsembleState, key: jax.Array) -> Step:
        if self.options.member_sampling == "step":
            return self.step
        places = self._assign_members(state, jax.random.fold_in(key, ONCE))
        return lambda state, action, key: self._step(state, action, key, places)

    def member_step(
        self, state: EnsembleState, action: jax.Array, key: jax.Array, member: jax.Array
    ) -> EnsembleState:
        """Computes all elites for every element, because each may need any of them."""
        inputs = self._inputs(state.point, action)
        predicted = select_members(self.networks, self.elites())(inputs)
        outcome = jax.tree.map(lambda x: x[member, jnp.arange(len(member))], predicted)
        return self.next_state(state, outcome.sample(key))

    def predict_members(self, state: EnsembleState, action: jax.Array) -> Normal:
        """Normal (M, ..., D + 1) of all members, or (M, ..., D) without reward."""
        inputs = self._inputs(state.point, action)
        flat = self.networks(inputs.reshape(-1, inputs.shape[-1]))
        shape = (self.size, *inputs.shape[:-1], -1)
        return jax.tree.map(lambda x: x.reshape(shape), flat)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        """Twice the negative log-likelihood (up to a constant) of every member, averaged over
        transitions and dimensions; the regularization, and the loss of the learned end.
        """
        states = self.observe(window, key)
        batch = self.training_batch(window)
        predicted = self.networks(batch.inputs)
        error = (batch.targets - predicted.location) / predicted.scale
        losses = jnp.square(error) + 2 * jnp.log(predicted.scale)
        weights = jnp.where(batch.learned, batch.weights, 0.0) / jnp.maximum(batch.learned.sum(), 1)
        losses = jnp.where(batch.learned[:, None], losses, 0.0)
        per_dimension = jnp.einsum("mn,mnd->d", weights, losses)  # sums over members
        if batch.observed is not None:
            known = batch.learned & batch.observed
            weights = jnp.where(known, batch.weights, 0.0) / jnp.maximum(known.sum(), 1)
            points = jnp.einsum("mn,mnd->d", weights, losses[..., : self.feature_size])
            per_dimension = per_dimension.at[: self.feature_size].set(points)
        terms = {"outcome": per_dimension.mean()} | self.regularization()
        if self.terminal_head is not None:
            after = jax.tree.map(lambda x: x[:, 1:], states)
            ends = self.terminal(after).loss(window.is_terminal[:, 1:]).reshape(-1)
            terms["terminal"] = masked_mean(ends, batch.learned)
        total = sum(terms.values(), jnp.zeros(()))
        parts = {"observation": per_dimension[: self.feature_size].mean() / self.size}
        if self.has_reward:
            parts["reward"] = per_dimension[-1] / self.size
        metrics = {f"loss/{name}": value for name, value in (terms | parts).items()}
        return total, (metrics | {"loss/total": total}, states)

    def regularization(self) -> dict[str, jax.Array]:
        """The width of the bounds of the log variance, and the weight decay."""
        return {
            "bounds": BOUNDS_SCALE * self.networks.bounds_width(),
            "weight_decay": self.options.weight_decay * self.networks.weight_decay(),
        }

    # --------------------------------------------------------------------------- members and
    # outcomes

    def elites(self) -> jax.Array:
        return jax.lax.top_k(-self.errors[...], self.num_elites)[1]

    def targets(self, state: EnsembleState, after: EnsembleState) -> jax.Array:
        parts = [(after.point - state.point) / self._change()]
        if self.has_reward:
            shift, scale = self._reward_units()
            parts.append(((after.reward - shift) / scale)[..., None])
        return jnp.concatenate(parts, -1)

    def next_state(self, state: EnsembleState, outcome: jax.Array) -> EnsembleState:
        point = state.point + outcome[..., : self.feature_size] * self._change()
        if not self.has_reward:
            return EnsembleState(point, jnp.zeros(point.shape[:-1]))
        shift, scale = self._reward_units()
        return EnsembleState(point, outcome[..., -1] * scale + shift)

    def state_from_features(
        self, features: jax.Array, reward: jax.Array | None = None
    ) -> EnsembleState:
        return EnsembleState(features, jnp.zeros(features.shape[:-1]) if reward is None else reward)

    def training_batch(self, window: Window) -> EnsembleBatch:
        """The transitions of a batch of windows (B, T) to learn from and to evaluate members on."""
        states = self._states(window)
        before = jax.tree.map(lambda x: x[:, :-1], states)
        after = jax.tree.map(lambda x: x[:, 1:], states)
        action = window.action[:, :-1]
        inputs, outcomes = self._inputs(before.point, action), self.targets(before, after)
        valid = has_predecessor(window)[:, 1:].reshape(-1)
        vectors = self.vectors.concatenate(window.observation)[:, :-1]
        acted = action[..., None] if self.action.discrete else action
        bits = [jax.lax.bitcast_convert_type(x, jnp.int32) for x in (vectors, acted)]
        code = hash_vectors(jnp.concatenate(bits, -1), self.salt[...].astype(jnp.uint32)).reshape(
            -1
        )
        holdout = held_out(code, self.options.holdout_ratio)
        weights = poisson_weights(code, self.size)
        weights = weights if self.options.bootstrap else jnp.ones_like(weights)
        inputs, outcomes = (x.reshape(-1, x.shape[-1]) for x in (inputs, outcomes))
        if window.observed is None:
            return EnsembleBatch(inputs, outcomes, valid & ~holdout, weights, valid & holdout)
        observed = window.observed[:, 1:].reshape(-1)
        compared = valid & holdout & observed
        return EnsembleBatch(inputs, outcomes, valid & ~holdout, weights, compared, observed)

    def holdout_errors(self, window: Window) -> tuple[jax.Array, jax.Array]:
        """Squared errors (M,) of the members' means, averaged over dimensions and summed over
        held-out transitions, and the number of these transitions, ().
        """
        batch = self.training_batch(window)
        count = batch.held_out.shape[0]
        # Few transitions are held out, so few are computed. A rare batch exceeds the limit.
        limit = min(count, 8 + round(2 * self.options.holdout_ratio * count))
        counts, places = jax.lax.top_k(batch.held_out.astype(jnp.int32), limit)
        predicted = self.networks(batch.inputs[places]).location
        errors = jnp.square(predicted - batch.targets[places]).mean(-1)
        return jnp.where(counts > 0, errors, 0.0).sum(-1), counts.sum()

    # --------------------------------------------------------------------------------------- parts

    def _states(self, window: Window) -> EnsembleState:
        return EnsembleState(self.vectors.normalize(window.observation), arrival_reward(window))

    def _step(
        self, state: EnsembleState, action: jax.Array, key: jax.Array, places: jax.Array
    ) -> EnsembleState:
        """Samples the outcome of every element from the elite that its place is assigned to. Every
        elite computes its own elements only, so a step costs as much as one member.
        """
        batch, inputs = state.reward.shape, self._inputs(state.point, action)
        inputs = inputs.reshape(state.reward.size, -1)
        assigned = jnp.zeros((self._num_places(len(inputs)), inputs.shape[-1]))
        assigned = assigned.at[places].set(inputs)
        assigned = assigned.reshape(self.num_elites, -1, inputs.shape[-1])
        predicted = select_members(self.networks, self.elites())(assigned)
        outcome = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[places], predicted)
        return self.next_state(state, outcome.sample(key).reshape(*batch, -1))

    def _assign_members(self, state: EnsembleState, key: jax.Array) -> jax.Array:
        """(N,) distinct random places for the elements of the batch. Consecutive places belong to
        the same elite, and elites have equally many of them.
        """
        count = state.reward.size
        return jax.random.permutation(key, self._num_places(count))[:count]

    def _num_places(self, count: int) -> int:
        return -(-count // self.num_elites) * self.num_elites

    def _inputs(self, point: jax.Array, action: jax.Array) -> jax.Array:
        """(..., D + A): the input of the networks."""
        return jnp.concatenate([point, action_vector(action, self.action, jnp.float32)], -1)

    def _change(self) -> jax.Array:
        """(D,) the unit of the change of each number of a point."""
        if self.options.standardize_outputs:
            return jnp.asarray(self.change)
        return 1.0 / jnp.asarray(self.vectors.scale)

    def _reward_units(self) -> tuple[float, float]:
        """Shift and scale of the reward."""
        return self.reward_spec if self.options.standardize_outputs else (0.0, 1.0)


def validate(options: EnsembleOptions, spec: DataSpec) -> None:
    """Raises ConfigError if a termination rule does not fit the dataset."""
    rule, size = options.termination, termination.SIZES.get(options.termination)
    shapes = {key: observation.shape for key, observation in spec.observations.items()}
    if size and list(shapes.values()) != [(size,)]:
        actual = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ConfigError(
            f"model.termination={rule}: the rule needs one vector of {size} numbers, and this "
            f"dataset has {actual}; accepted: learned or never"
        )
