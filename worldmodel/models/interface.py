"""What every family of world models offers: all that policies, imagination and evaluation use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from worldmodel.config import ModelOptions
from worldmodel.data.spec import DataSpec
from worldmodel.data.windows import Window
from worldmodel.nn.distributions import Distribution, Normal

Actor = Callable[[jax.Array], Any]  # features (B, F) -> a distribution over actions (B, ...)
State = Any  # a pytree of the family's own, every leaf with the batch axes first
Step = Callable[[State, jax.Array, jax.Array], State]  # (state, action, key) -> the next state
Metrics = dict[str, jax.Array]


class WorldModel(nnx.Module):
    """A latent dynamics model. It holds parameters only: randomness always comes in as a key.

    `reward(state')` and `terminal(state')` are read from the state *after* an action and say what
    that action earned and whether it ended the episode.
    """

    trainable: ClassVar[bool] = True  # whether there is anything to train
    has_dynamics: ClassVar[bool] = True  # whether it has dynamics
    autoregressive: ClassVar[bool] = True  # whether it is made to take single steps
    num_elites: int = 1  # how many members a rollout can be drawn from
    feature_size: int
    hidden_size: int  # units of the model's hidden layers: policies' too, unless they are told

    @classmethod
    def pretrained_modules(cls, options: ModelOptions, spec: DataSpec) -> tuple[str, ...]:
        """Names of the attributes that are trained first, by a `loss` of their own, and frozen."""
        return ()

    @classmethod
    def uses_best_snapshot(cls, options: ModelOptions) -> bool:
        """Whether each member's best parameters are judged and imagined with, not its last ones: it
        then has `networks`, `errors` and `holdout_errors` (see training/snapshots.py).
        """
        return False

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        """Scalar training loss of a batch (B, T), metrics, and the states that `observe` would
        give.

        The states carry gradient, so that a policy trained jointly can shape the model.
        """
        raise self._lacking("loss")

    def initial(self, batch: tuple[int, ...]) -> State:
        """The state before anything was seen, with the given batch axes."""
        raise self._lacking("initial")

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: State | None = None,
        action: jax.Array | None = None,
    ) -> State:
        """What is believed at every row given the past, (B, T, ...).

        `state` and `action` are those of the row before the window, where it is known: so a long
        record can be filtered in pieces, and an environment row by row. Where `is_first`, they are
        ignored.
        """
        raise self._lacking("observe")

    def step(self, state: State, action: jax.Array, key: jax.Array) -> State:
        """One imagined step: the state (B, ...) after `action` (B, A) or (B,)."""
        raise self._lacking("step")

    def make_step(self, state: State, key: jax.Array) -> Step:
        """The step of one rollout from `state` (B, ...). A family that draws something once a
        rollout overrides it.
        """
        return self.step

    def member_step(
        self, state: State, action: jax.Array, key: jax.Array, member: jax.Array
    ) -> State:
        """The step (B, ...) as one of the `num_elites` best members, `member` (B,), takes it. Where
        there is one alone, it is the family's step.
        """
        return self.step(state, action, key)

    def rollout(self, state: State, actions: jax.Array, key: jax.Array) -> State:
        """The states (B, H, ...) after each of the given actions (B, H, ...). Families that can do
        better override it.
        """

        step = self.make_step(state, key)

        def advance(state: State, inputs: tuple[jax.Array, jax.Array]) -> tuple[State, State]:
            action, key = inputs
            state = step(state, action, key)
            return state, state

        keys = jax.random.split(key, actions.shape[1])
        _, states = jax.lax.scan(advance, state, (jnp.swapaxes(actions, 0, 1), keys))
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states)

    def rollout_policy(
        self, state: State, actor: Actor, horizon: int, key: jax.Array
    ) -> tuple[State, jax.Array]:
        """States (B, H + 1, ...), from the given one on, and actions (B, H, ...) under an actor: it
        acts at every step, or leads a family that makes rollouts as a whole.
        """

        step = self.make_step(state, key)

        def advance(state: State, key: jax.Array) -> tuple[State, tuple[State, jax.Array]]:
            actor_key, model_key = jax.random.split(key)
            action = actor(self.features(state)).sample(actor_key)
            state = step(state, action, model_key)
            return state, (state, action)

        keys = jax.random.split(key, horizon)
        _, (states, actions) = jax.lax.scan(advance, state, keys)
        states = jax.tree.map(
            lambda first, rest: jnp.concatenate([first[None], rest]), state, states
        )
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (states, actions))

    def features(self, state: State) -> jax.Array:
        """What policies and heads see, (..., feature_size)."""
        raise self._lacking("features")

    def observation(self, state: State) -> Mapping[str, Distribution]:
        raise self._lacking("observation")

    def reward(self, state: State) -> Distribution:
        raise self._lacking("reward")

    def terminal(self, state: State) -> Distribution:
        raise self._lacking("terminal")

    def eigenvalues(self) -> tuple[jax.Array, jax.Array] | None:
        """Real and imaginary parts (m,) of the eigenvalues of a step of the latent: one of every
        conjugate pair, with the imaginary part that is not negative. None where the latent does not
        move linearly.
        """
        return None

    def predict_members(self, state: State, action: jax.Array) -> Normal | None:
        """What each of M members predicts of an action's outcome, (M, ..., D + 1): the change of
        the point, and the reward last, in the units that members are trained in. None where the
        family is no ensemble.
        """
        return None

    def _lacking(self, method: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} has no `{method}`, which every family of world models gives"
        )
