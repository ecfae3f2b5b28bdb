"""A probabilistic ensemble, as MBPO and MOPO have it (Janner et al., arXiv 1906.08253; Yu et al.,
arXiv 2005.13239), for vectors.

Each member predicts a normal distribution of an action's outcome: the change of the point and the
reward. Members differ by their first parameters and by the rows they learn from. A share of the
rows is held out from all of them; on these the best parameters of each member are found while
training goes on (training/snapshots.py), and the best members, the elites, are imagined with.
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
from worldmodel.errors import ConfigError, UserError
from worldmodel.models import termination
from worldmodel.models.interface import Metrics, Step, WorldModel
from worldmodel.models.latent import NO_REWARD, has_predecessor, masked_mean, shift_right
from worldmodel.models.normalizer import VectorNormalizer
from worldmodel.nn.bootstrap import hash_rows, held_out, poisson_weights
from worldmodel.nn.codecs import image_keys
from worldmodel.nn.distributions import Bernoulli, Distribution, Normal, ScalarMSE
from worldmodel.nn.ensemble_layers import GaussianEnsemble, select_members
from worldmodel.nn.heads import BinaryHead

BOUNDS_SCALE = 0.01  # weight of the width between the bounds of the variance
CERTAIN = 50.0  # the logit of what a rule says: 1e-22 away from 0 or 1
# Keys of steps are numbered from 0: far from them lies that of what is drawn once a rollout.
ONCE = 2**31


class EnsembleState(NamedTuple):
    """point: (..., D); reward: (...), what the action that led there earned, 0 where unknown."""

    point: jax.Array
    reward: jax.Array


class EnsembleBatch(NamedTuple):
    """The N = B (T - 1) transitions of a batch of windows (B, T).

    inputs: (N, I); targets: (N, D + 1)
    learned: (N,) bool, those to learn from; weights: (M, N), how often each member does
    held_out: (N,) bool, those on which members are judged
    """

    inputs: jax.Array
    targets: jax.Array
    learned: jax.Array
    weights: jax.Array
    held_out: jax.Array


# preset -> members, elites, units and hidden layers of each. `mopo` is that of MOPO.
ENSEMBLE_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (5, 3, 64, 2),
    "small": (5, 3, 128, 3),
    "mopo": (7, 5, 200, 4),
}


@dataclass
class EnsembleOptions(ModelOptions):
    """Networks that each predict, as a normal distribution, what a step changes."""

    name: str = option("ensemble", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENSEMBLE_PRESETS)
    )
    num_members: int | None = option(None, "networks", low=1)
    num_elites: int | None = option(
        None, "members that are imagined with: the best on held-out rows", low=1
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    layers: int | None = option(None, "hidden layers of each member", low=1)
    layer_norm: bool = option(True, "LayerNorm in every hidden layer")
    standardize_outputs: bool = option(
        True, "predict in units of what a step typically changes, not in raw units"
    )
    bootstrap: bool = option(True, "every member learns from a resampling of the rows of its own")
    holdout_ratio: float = option(
        0.05,
        "share of rows kept from training, to find each member's best parameters (0: last)",
        low=0.0,
        high=0.5,
    )
    weight_decay: float = option(
        1e-4, "L2 of the output layer; hidden ones have 1/4, 1/2, then 3/4 of it", low=0.0
    )
    termination: str = option(
        "learned",
        "what ends an episode: a learned head, the rule of a MuJoCo environment, or nothing",
        choices=("learned", "halfcheetah", "hopper", "walker2d", "never"),
    )
    member_sampling: str = option(
        "step",
        "a random elite is drawn for every step, or for a whole rollout",
        choices=("step", "rollout"),
    )

    def sizes(self) -> tuple[int, int, int, int]:
        """Members, elites, units and layers."""
        own = (self.num_members, self.num_elites, self.units, self.layers)
        preset = ENSEMBLE_PRESETS[self.preset]
        return tuple(p if o is None else o for o, p in zip(own, preset, strict=True))

    def check(self, config: Config) -> Iterator[str]:
        members, elites, _, _ = self.sizes()
        if elites > members:
            yield f"model.num_elites={elites}: the elites are some of model.num_members={members}"
        if not self.holdout_ratio:
            return
        if self.ema_decay:
            yield (
                f"model.ema_decay={self.ema_decay:g}: with model.holdout_ratio={self.holdout_ratio:g} each member's best "
                "parameters are used, not an average; accepted: model.ema_decay=0 or model.holdout_ratio=0"
            )
        if config.training.joint:
            yield (
                f"model.holdout_ratio={self.holdout_ratio:g}: with training.joint=true the policy learns on "
                "the last parameters, not on each member's best; accepted: model.holdout_ratio=0"
            )


@register("model", "ensemble", EnsembleOptions)
class Ensemble(WorldModel):
    """p(change of the point, reward | point, action) by several networks.

    errors: (M,), mean squared error of each on held-out rows, as far as known
    salt: (), a whole number, by which rows are held out and resampled otherwise for every seed
    """

    @classmethod
    def uses_best_snapshot(cls, options: EnsembleOptions) -> bool:
        return options.holdout_ratio > 0

    def __init__(
        self,
        options: EnsembleOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        validate(options, spec)
        self.size, self.num_elites, units, layers = options.sizes()
        self.options, self.action, self.reward_spec = options, spec.action, spec.reward_mean_std
        self.vectors, self.has_reward = VectorNormalizer.of(spec), spec.has_reward
        self.feature_size, self.hidden_size = self.vectors.size, units
        inputs = self.feature_size + spec.action.size
        outputs = self.feature_size + int(spec.has_reward)
        self.networks = GaussianEnsemble(
            self.size, inputs, outputs, units, layers, options.layer_norm, rngs=rngs, dtype=dtype
        )
        learned = options.termination == "learned"
        head = BinaryHead(self.feature_size, units, 1, rngs=rngs, dtype=dtype) if learned else None
        self.terminal_head = head
        self.errors = nnx.Variable(jnp.zeros(self.size, jnp.float32))
        # A float, as all parameters are.
        self.salt = nnx.Variable(jnp.floor(2**24 * jax.random.uniform(rngs.params())))

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> EnsembleState:
        return EnsembleState(jnp.zeros((*batch, self.feature_size)), jnp.zeros(batch))

    def features(self, state: EnsembleState) -> jax.Array:
        return state.point

    def observation(self, state: EnsembleState) -> Mapping[str, Distribution]:
        return self.vectors.decode(state.point)

    def reward(self, state: EnsembleState) -> ScalarMSE:
        if not self.has_reward:
            raise UserError(NO_REWARD)
        return ScalarMSE(state.reward, self.reward_spec[1])

    def terminal(self, state: EnsembleState) -> Bernoulli:
        """Whether an episode ends is told by the point alone."""
        if self.terminal_head is not None:
            return self.terminal_head(state.point)
        raw = [vector.mean() for vector in self.vectors.decode(state.point).values()]
        ended = termination.RULES[self.options.termination](jnp.concatenate(raw, -1))
        return Bernoulli(jnp.where(ended, CERTAIN, -CERTAIN))

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: EnsembleState | None = None,
        action: jax.Array | None = None,
    ) -> EnsembleState:
        """What is observed is believed. The reward of a window's first row is not known."""
        reward = jnp.where(has_predecessor(window), shift_right(window.reward), 0.0)
        return EnsembleState(self.vectors.encode(window.observation), reward)

    def step(self, state: EnsembleState, action: jax.Array, key: jax.Array) -> EnsembleState:
        deal_key, key = jax.random.split(key)
        return self._step(state, action, key, self._assign_members(state, deal_key))

    def make_step(self, state: EnsembleState, key: jax.Array) -> Step:
        if self.options.member_sampling == "step":
            return self.step
        slots = self._assign_members(state, jax.random.fold_in(key, ONCE))
        return lambda state, action, key: self._step(state, action, key, slots)

    def member_step(
        self, state: EnsembleState, action: jax.Array, key: jax.Array, member: jax.Array
    ) -> EnsembleState:
        """Any row may ask for any elite, so all elites are computed for every row."""
        inputs = self._inputs(state.point, action)
        predicted = select_members(self.networks, self.elites())(inputs)
        own = jax.tree.map(lambda x: x[member, jnp.arange(len(member))], predicted)
        return self.next_state(state, own.sample(key))

    def predict_members(self, state: EnsembleState, action: jax.Array) -> Normal:
        """Normal (M, ..., D + 1), or D without reward, as `targets` has them; all members."""
        inputs = self._inputs(state.point, action)
        flat = self.networks(inputs.reshape(-1, inputs.shape[-1]))
        shape = (self.size, *inputs.shape[:-1], -1)
        return jax.tree.map(lambda x: x.reshape(shape), flat)

    def loss(
        self, window: Window, key: jax.Array
    ) -> tuple[jax.Array, tuple[Metrics, EnsembleState]]:
        """For every member, twice the negative log-likelihood (up to a constant), as a mean over
        rows and numbers; the width of the bounds, the decay of the weights, and the learned end.
        """
        states = self.observe(window, key)
        rows = self.training_batch(window)
        predicted = self.networks(rows.inputs)
        error = (rows.targets - predicted.location) / predicted.scale
        surprise = jnp.square(error) + 2 * jnp.log(predicted.scale)
        weights = jnp.where(rows.learned, rows.weights, 0.0) / jnp.maximum(rows.learned.sum(), 1)
        surprise = jnp.where(rows.learned[:, None], surprise, 0.0)
        each = jnp.einsum("mn,mnd->d", weights, surprise)  # sums over members
        terms = {"outcome": each.mean()} | self.regularization()
        if self.terminal_head is not None:
            after = jax.tree.map(lambda x: x[:, 1:], states)
            ends = self.terminal(after).loss(window.is_terminal[:, 1:]).reshape(-1)
            terms["terminal"] = masked_mean(ends, rows.learned)
        total = sum(terms.values())
        read = {"observation": each[: self.feature_size].mean() / self.size}
        if self.has_reward:
            read["reward"] = each[-1] / self.size
        metrics = {f"loss/{name}": value for name, value in (terms | read).items()}
        return total, (metrics | {"loss/total": total}, states)

    def regularization(self) -> dict[str, jax.Array]:
        """What is added to a likelihood of outcomes: the width between the bounds of the variance,
        and the decay of the weights.
        """
        return {
            "bounds": BOUNDS_SCALE * self.networks.width(),
            "weight_decay": self.options.weight_decay * self.networks.decay(),
        }

    # ---------------------------------------------------------------------- members and their units

    def elites(self) -> jax.Array:
        """(E,) the members with the smallest errors."""
        return jax.lax.top_k(-self.errors[...], self.num_elites)[1]

    def targets(self, state: EnsembleState, after: EnsembleState) -> jax.Array:
        """(..., D + 1): what led from one state to the other, as members are trained to say it."""
        parts = [(after.point - state.point) / self._change()]
        if self.has_reward:
            shift, scale = self._reward_units()
            parts.append(((after.reward - shift) / scale)[..., None])
        return jnp.concatenate(parts, -1)

    def next_state(self, state: EnsembleState, outcome: jax.Array) -> EnsembleState:
        """Where an outcome (..., D + 1) leads to: the inverse of `targets`."""
        point = state.point + outcome[..., : self.feature_size] * self._change()
        if not self.has_reward:
            return EnsembleState(point, jnp.zeros(point.shape[:-1]))
        shift, scale = self._reward_units()
        return EnsembleState(point, outcome[..., -1] * scale + shift)

    def state_from_features(
        self, features: jax.Array, reward: jax.Array | None = None
    ) -> EnsembleState:
        """The state that features (..., D) were read from, and what led there earned (...)."""
        return EnsembleState(features, jnp.zeros(features.shape[:-1]) if reward is None else reward)

    def training_batch(self, window: Window) -> EnsembleBatch:
        """What is learned from a batch of windows (B, T), and what members are judged on."""
        states = self.observe(window, None)
        before = jax.tree.map(lambda x: x[:, :-1], states)
        after = jax.tree.map(lambda x: x[:, 1:], states)
        action = window.action[:, :-1]
        inputs, outcomes = self._inputs(before.point, action), self.targets(before, after)
        real = has_predecessor(window)[:, 1:]
        seen = [window.observation[v.key][:, :-1] for v in self.vectors.vectors]
        done = action[..., None] if self.action.discrete else action
        bits = [jax.lax.bitcast_convert_type(x, jnp.int32) for x in (*seen, done)]
        code = hash_rows(jnp.concatenate(bits, -1), self.salt[...].astype(jnp.uint32)).reshape(-1)
        kept = held_out(code, self.options.holdout_ratio)
        bootstrap = poisson_weights(code, self.size)
        weights = bootstrap if self.options.bootstrap else jnp.ones_like(bootstrap)
        inputs, outcomes = (x.reshape(-1, x.shape[-1]) for x in (inputs, outcomes))
        real = real.reshape(-1)
        return EnsembleBatch(inputs, outcomes, real & ~kept, weights, real & kept)

    def holdout_errors(self, window: Window) -> tuple[jax.Array, jax.Array]:
        """Squared errors (M,) of the members' means, summed over held-out rows (a mean over the
        numbers of each), and how many rows these are, ().
        """
        rows = self.training_batch(window)
        count = rows.held_out.shape[0]
        # Few rows are held out, so few are computed. In a rare batch some are passed over.
        most = min(count, 8 + round(2 * self.options.holdout_ratio * count))
        counts, places = jax.lax.top_k(rows.held_out.astype(jnp.int32), most)
        predicted = self.networks(rows.inputs[places]).location
        errors = jnp.square(predicted - rows.targets[places]).mean(-1)
        return jnp.where(counts > 0, errors, 0.0).sum(-1), counts.sum()

    # ------------------------------------------------------------------------------------ the parts

    def _step(
        self, state: EnsembleState, action: jax.Array, key: jax.Array, slots: jax.Array
    ) -> EnsembleState:
        """A sample of what the elite that each row was dealt to predicts. Every elite sees its own
        rows alone, so a step costs as much as one member.
        """
        batch, inputs = state.reward.shape, self._inputs(state.point, action)
        inputs = inputs.reshape(state.reward.size, -1)
        hands = jnp.zeros((self._num_slots(len(inputs)), inputs.shape[-1])).at[slots].set(inputs)
        hands = hands.reshape(self.num_elites, -1, inputs.shape[-1])
        predicted = select_members(self.networks, self.elites())(hands)
        dealt = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[slots], predicted)
        return self.next_state(state, dealt.sample(key).reshape(*batch, -1))

    def _assign_members(self, state: EnsembleState, key: jax.Array) -> jax.Array:
        """(N,) a place for each row of the batch, all different: as when cards are dealt, each
        elite gets as many rows as any other, but for one.
        """
        rows = state.reward.size
        return jax.random.permutation(key, self._num_slots(rows))[:rows]

    def _num_slots(self, rows: int) -> int:
        return -(-rows // self.num_elites) * self.num_elites

    def _inputs(self, point: jax.Array, action: jax.Array) -> jax.Array:
        """(..., D + A): what a network sees."""
        if self.action.discrete:
            action = jax.nn.one_hot(action, self.action.size)
        return jnp.concatenate([point, action.astype(jnp.float32)], -1)

    def _change(self) -> jax.Array:
        """(D,) the unit of each number's change, in those of the point."""
        if self.options.standardize_outputs:
            return self.vectors.change()
        return 1.0 / jnp.concatenate([jnp.asarray(v.std) for v in self.vectors.vectors])

    def _reward_units(self) -> tuple[float, float]:
        """Shift and scale."""
        return self.reward_spec if self.options.standardize_outputs else (0.0, 1.0)


def validate(options: EnsembleOptions, spec: DataSpec) -> None:
    """Raises ConfigError for what the family does not take."""
    if images := image_keys(spec):
        raise ConfigError(
            f"model=ensemble takes vectors, and {', '.join(images)} of these logs are images; "
            "accepted for images: model=rssm, koopman, gru, mlp, diffusion or trajectory_diffusion"
        )
    rule, size = options.termination, termination.SIZES.get(options.termination)
    shapes = {key: observation.shape for key, observation in spec.observations.items()}
    if size and list(shapes.values()) != [(size,)]:
        found = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ConfigError(
            f"model.termination={rule}: is a rule on one vector of {size} numbers, as {rule} "
            f"environments give it, and these logs have {found}; accepted: learned or never"
        )
