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
from worldmodel.models.latent import NO_REWARD, arrived, masked_mean, previous
from worldmodel.models.points import Vectors
from worldmodel.nn.bootstrap import hashed, held_out, poisson_weights
from worldmodel.nn.codecs import image_keys
from worldmodel.nn.distributions import Bernoulli, Distribution, Normal, ScalarMSE
from worldmodel.nn.heads import BinaryHead
from worldmodel.nn.members import GaussianNetworks, some_of

BOUNDS_SCALE = 0.01  # weight of the width between the bounds of the variance
CERTAIN = 50.0  # the logit of what a rule says: 1e-22 away from 0 or 1
# Keys of steps are numbered from 0: far from them lies that of what is drawn once a rollout.
ONCE = 2**31


class Arrival(NamedTuple):
    """point: (..., D); reward: (...), what the action that led there earned, 0 where unknown."""

    point: jax.Array
    reward: jax.Array


class Rows(NamedTuple):
    """The N = B (T - 1) transitions of a batch of windows (B, T).

    inputs: (N, I); outcomes: (N, D + 1)
    learned: (N,) bool, those to learn from; weights: (M, N), how often each member does
    held_out: (N,) bool, those on which members are judged
    """

    inputs: jax.Array
    outcomes: jax.Array
    learned: jax.Array
    weights: jax.Array
    held_out: jax.Array


# preset -> members, elites, units and hidden layers of each. `published` is that of MOPO.
ENSEMBLE_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "tiny": (5, 3, 64, 2),
    "small": (5, 3, 128, 3),
    "published": (7, 5, 200, 4),
}


@dataclass
class EnsembleOptions(ModelOptions):
    """Networks that each predict, as a normal distribution, what a step changes."""

    name: str = option("ensemble", "family of the world model")
    preset: str = option(
        "tiny", "size; the options below override single numbers", choices=tuple(ENSEMBLE_PRESETS)
    )
    members: int | None = option(None, "networks", low=1)
    elites: int | None = option(
        None, "members that are imagined with: the best on held-out rows", low=1
    )
    units: int | None = option(None, "units of every hidden layer", low=1)
    layers: int | None = option(None, "hidden layers of each member", low=1)
    layer_norm: bool = option(True, "LayerNorm in every hidden layer")
    standardize_outputs: bool = option(
        True, "predict in units of what a step typically changes, not in raw units"
    )
    bootstrap: bool = option(True, "every member learns from a resampling of the rows of its own")
    holdout: float = option(
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
    member: str = option(
        "step",
        "a random elite is drawn for every step, or for a whole rollout",
        choices=("step", "rollout"),
    )

    def sizes(self) -> tuple[int, int, int, int]:
        """Members, elites, units and layers."""
        own = (self.members, self.elites, self.units, self.layers)
        preset = ENSEMBLE_PRESETS[self.preset]
        return tuple(p if o is None else o for o, p in zip(own, preset, strict=True))

    def check(self, config: Config) -> Iterator[str]:
        members, elites, _, _ = self.sizes()
        if elites > members:
            yield f"model.elites={elites}: the elites are some of model.members={members}"
        if not self.holdout:
            return
        if self.ema:
            yield (
                f"model.ema={self.ema:g}: with model.holdout={self.holdout:g} each member's best "
                "parameters are used, not an average; accepted: model.ema=0 or model.holdout=0"
            )
        if config.training.joint:
            yield (
                f"model.holdout={self.holdout:g}: with training.joint=true the policy learns on "
                "the last parameters, not on each member's best; accepted: model.holdout=0"
            )


@register("model", "ensemble", EnsembleOptions)
class Ensemble(WorldModel):
    """p(change of the point, reward | point, action) by several networks.

    errors: (M,), mean squared error of each on held-out rows, as far as known
    salt: (), a whole number, by which rows are held out and resampled otherwise for every seed
    """

    @classmethod
    def keeps_best(cls, options: EnsembleOptions) -> bool:
        return options.holdout > 0

    def __init__(
        self,
        options: EnsembleOptions,
        spec: DataSpec,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        check(options, spec)
        self.size, self.elite_size, units, layers = options.sizes()
        self.options, self.action, self.reward_spec = options, spec.action, spec.reward
        self.vectors, self.has_reward = Vectors.of(spec), spec.has_reward
        self.feature_size, self.hidden_size = self.vectors.size, units
        inputs = self.feature_size + spec.action.size
        outputs = self.feature_size + int(spec.has_reward)
        self.networks = GaussianNetworks(
            self.size, inputs, outputs, units, layers, options.layer_norm, rngs=rngs, dtype=dtype
        )
        learned = options.termination == "learned"
        head = BinaryHead(self.feature_size, units, 1, rngs=rngs, dtype=dtype) if learned else None
        self.terminal_head = head
        self.errors = nnx.Variable(jnp.zeros(self.size, jnp.float32))
        # A float, as all parameters are.
        self.salt = nnx.Variable(jnp.floor(2**24 * jax.random.uniform(rngs.params())))

    # -------------------------------------------------------------------------------- the interface

    def initial(self, batch: tuple[int, ...]) -> Arrival:
        return Arrival(jnp.zeros((*batch, self.feature_size)), jnp.zeros(batch))

    def features(self, state: Arrival) -> jax.Array:
        return state.point

    def observation(self, state: Arrival) -> Mapping[str, Distribution]:
        return self.vectors.decode(state.point)

    def reward(self, state: Arrival) -> ScalarMSE:
        if not self.has_reward:
            raise UserError(NO_REWARD)
        return ScalarMSE(state.reward, self.reward_spec[1])

    def terminal(self, state: Arrival) -> Bernoulli:
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
        state: Arrival | None = None,
        action: jax.Array | None = None,
    ) -> Arrival:
        """What is observed is believed. The reward of a window's first row is not known."""
        reward = jnp.where(arrived(window), previous(window.reward), 0.0)
        return Arrival(self.vectors.encode(window.observation), reward)

    def step(self, state: Arrival, action: jax.Array, key: jax.Array) -> Arrival:
        deal_key, key = jax.random.split(key)
        return self._step(state, action, key, self._dealt(state, deal_key))

    def stepper(self, state: Arrival, key: jax.Array) -> Step:
        if self.options.member == "step":
            return self.step
        slots = self._dealt(state, jax.random.fold_in(key, ONCE))
        return lambda state, action, key: self._step(state, action, key, slots)

    def member_step(
        self, state: Arrival, action: jax.Array, key: jax.Array, member: jax.Array
    ) -> Arrival:
        """Any row may ask for any elite, so all elites are computed for every row."""
        inputs = self._inputs(state.point, action)
        predicted = some_of(self.networks, self.elites())(inputs)
        own = jax.tree.map(lambda x: x[member, jnp.arange(len(member))], predicted)
        return self.arrival(state, own.sample(key))

    def members(self, state: Arrival, action: jax.Array) -> Normal:
        """Normal (M, ..., D + 1), or D without reward, as `outcomes` has them; all members."""
        inputs = self._inputs(state.point, action)
        flat = self.networks(inputs.reshape(-1, inputs.shape[-1]))
        shape = (self.size, *inputs.shape[:-1], -1)
        return jax.tree.map(lambda x: x.reshape(shape), flat)

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, Arrival]]:
        """For every member, twice the negative log-likelihood (up to a constant), as a mean over
        rows and numbers; the width of the bounds, the decay of the weights, and the learned end.
        """
        states = self.observe(window, key)
        rows = self.rows(window)
        predicted = self.networks(rows.inputs)
        error = (rows.outcomes - predicted.location) / predicted.scale
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
        return jax.lax.top_k(-self.errors[...], self.elite_size)[1]

    def outcomes(self, state: Arrival, after: Arrival) -> jax.Array:
        """(..., D + 1): what led from one state to the other, as members are trained to say it."""
        parts = [(after.point - state.point) / self._change()]
        if self.has_reward:
            shift, scale = self._reward_units()
            parts.append(((after.reward - shift) / scale)[..., None])
        return jnp.concatenate(parts, -1)

    def arrival(self, state: Arrival, outcome: jax.Array) -> Arrival:
        """Where an outcome (..., D + 1) leads to: the inverse of `outcomes`."""
        point = state.point + outcome[..., : self.feature_size] * self._change()
        if not self.has_reward:
            return Arrival(point, jnp.zeros(point.shape[:-1]))
        shift, scale = self._reward_units()
        return Arrival(point, outcome[..., -1] * scale + shift)

    def recalled(self, features: jax.Array, reward: jax.Array | None = None) -> Arrival:
        """The state that features (..., D) were read from, and what led there earned (...)."""
        return Arrival(features, jnp.zeros(features.shape[:-1]) if reward is None else reward)

    def rows(self, window: Window) -> Rows:
        """What is learned from a batch of windows (B, T), and what members are judged on."""
        states = self.observe(window, None)
        before = jax.tree.map(lambda x: x[:, :-1], states)
        after = jax.tree.map(lambda x: x[:, 1:], states)
        action = window.action[:, :-1]
        inputs, outcomes = self._inputs(before.point, action), self.outcomes(before, after)
        real = arrived(window)[:, 1:]
        seen = [window.observation[v.key][:, :-1] for v in self.vectors.vectors]
        done = action[..., None] if self.action.discrete else action
        bits = [jax.lax.bitcast_convert_type(x, jnp.int32) for x in (*seen, done)]
        code = hashed(jnp.concatenate(bits, -1), self.salt[...].astype(jnp.uint32)).reshape(-1)
        kept = held_out(code, self.options.holdout)
        bootstrap = poisson_weights(code, self.size)
        weights = bootstrap if self.options.bootstrap else jnp.ones_like(bootstrap)
        inputs, outcomes = (x.reshape(-1, x.shape[-1]) for x in (inputs, outcomes))
        real = real.reshape(-1)
        return Rows(inputs, outcomes, real & ~kept, weights, real & kept)

    def held_out(self, window: Window) -> tuple[jax.Array, jax.Array]:
        """Squared errors (M,) of the members' means, summed over held-out rows (a mean over the
        numbers of each), and how many rows these are, ().
        """
        rows = self.rows(window)
        count = rows.held_out.shape[0]
        # Few rows are held out, so few are computed. In a rare batch some are passed over.
        most = min(count, 8 + round(2 * self.options.holdout * count))
        counts, places = jax.lax.top_k(rows.held_out.astype(jnp.int32), most)
        predicted = self.networks(rows.inputs[places]).location
        errors = jnp.square(predicted - rows.outcomes[places]).mean(-1)
        return jnp.where(counts > 0, errors, 0.0).sum(-1), counts.sum()

    # ------------------------------------------------------------------------------------ the parts

    def _step(self, state: Arrival, action: jax.Array, key: jax.Array, slots: jax.Array) -> Arrival:
        """A sample of what the elite that each row was dealt to predicts. Every elite sees its own
        rows alone, so a step costs as much as one member.
        """
        batch, inputs = state.reward.shape, self._inputs(state.point, action)
        inputs = inputs.reshape(state.reward.size, -1)
        hands = jnp.zeros((self._places(len(inputs)), inputs.shape[-1])).at[slots].set(inputs)
        hands = hands.reshape(self.elite_size, -1, inputs.shape[-1])
        predicted = some_of(self.networks, self.elites())(hands)
        dealt = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[slots], predicted)
        return self.arrival(state, dealt.sample(key).reshape(*batch, -1))

    def _dealt(self, state: Arrival, key: jax.Array) -> jax.Array:
        """(N,) a place for each row of the batch, all different: as when cards are dealt, each
        elite gets as many rows as any other, but for one.
        """
        rows = state.reward.size
        return jax.random.permutation(key, self._places(rows))[:rows]

    def _places(self, rows: int) -> int:
        return -(-rows // self.elite_size) * self.elite_size

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


def check(options: EnsembleOptions, spec: DataSpec) -> None:
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
