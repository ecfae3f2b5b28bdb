"""The interface of world models: all that policies, imagination and evaluation use."""

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

    Axes: B windows of T steps, H imagined steps, F features. Continuous actions are (B, A) in
    [-1, 1], discrete ones (B,) integers. Rewards and observations are in the dataset's units.
    `reward(state)` and `terminal(state)` are of the state *after* an action: the reward of that
    action, and whether it ended the episode.

    A family implements `loss`, `initial`, `observe`, `step`, `features`, `observation`, `reward`
    and `terminal`, and is built as `Family(options, spec, rngs=rngs, dtype=dtype)`:

        states = model.observe(window, key)  # (B, T, ...)
        last = jax.tree.map(lambda x: x[:, -1], states)
        future = model.rollout(last, actions, key)  # actions (B, H, A) -> states (B, H, ...)
        model.observation(future)["position"].mean()  # (B, H, D)
    """

    trainable: ClassVar[bool] = True  # whether it has parameters to train
    has_dynamics: ClassVar[bool] = True  # whether it can imagine
    autoregressive: ClassVar[bool] = True  # whether it is meant to take single steps
    supports_images: ClassVar[bool] = True
    num_elites: int = 1  # members that a rollout can be drawn from
    feature_size: int  # F
    hidden_size: int  # units of hidden layers, which policies take over unless set

    @classmethod
    def pretrained_modules(cls, options: ModelOptions, spec: DataSpec) -> tuple[str, ...]:
        """Names of the attributes that stages of their own train first, by their own `loss`; the
        world model's stage keeps them frozen.
        """
        return ()

    def loss(self, window: Window, key: jax.Array) -> tuple[jax.Array, tuple[Metrics, State]]:
        """The training loss of a batch of windows (B, T).

        Returns the loss (), metrics, and the states (B, T, ...) that `observe` returns, with
        gradient: a policy trained jointly continues from them.
        """
        raise self._missing("loss")

    def initial(self, batch: tuple[int, ...]) -> State:
        """The state before any observation, with the given batch axes."""
        raise self._missing("initial")

    def observe(
        self,
        window: Window,
        key: jax.Array,
        state: State | None = None,
        action: jax.Array | None = None,
    ) -> State:
        """Filters a batch of windows: the state (B, T, ...) at every step given the past.

        state, action: (B, ...) of the step before the window, where there is one, so that long
            records are filtered in pieces and environments step by step; ignored where `is_first`
        """
        raise self._missing("observe")

    def step(self, state: State, action: jax.Array, key: jax.Array) -> State:
        """One imagined step: the state (B, ...) after `action` in `state` (B, ...)."""
        raise self._missing("step")

    def make_step(self, state: State, key: jax.Array) -> Step:
        """The step function of one rollout from `state` (B, ...). A family that samples something
        once per rollout overrides it.
        """
        return self.step

    def member_step(
        self, state: State, action: jax.Array, key: jax.Array, member: jax.Array
    ) -> State:
        """`step` by one of the `num_elites` best members for each element, `member` (B,)."""
        return self.step(state, action, key)

    def rollout(self, state: State, actions: jax.Array, key: jax.Array) -> State:
        """The states (B, H, ...) after each of the actions (B, H, ...), from `state` (B, ...).

        Families override it where all steps can be computed at once.
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
        """A rollout of a policy: states (B, H + 1, ...), `state` (B, ...) first, and actions
        (B, H, ...).

        The actor acts at every step; a family that samples trajectories as a whole overrides this
        and guides them by it.
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
        """The inputs (..., F) of policies and heads."""
        raise self._missing("features")

    def observation(self, state: State) -> Mapping[str, Distribution]:
        """The predictive distribution of each observation by name, (..., shape)."""
        raise self._missing("observation")

    def reward(self, state: State) -> Distribution:
        """The predictive distribution of the reward (...). Raises UserError for a model that was
        trained without rewards.
        """
        raise self._missing("reward")

    def terminal(self, state: State) -> Distribution:
        """The predictive distribution of the end of the episode (...), 1 where it has ended."""
        raise self._missing("terminal")

    def eigenvalues(self) -> tuple[jax.Array, jax.Array] | None:
        """Real and imaginary parts (m,) of the eigenvalues of a step of a linear latent, one of
        every conjugate pair, with nonnegative imaginary part; None for nonlinear dynamics.
        """
        return None

    def predict_members(self, state: State, action: jax.Array) -> Normal | None:
        """The predictions (M, ..., D + 1) of M members for an action: the change of the D numbers
        of the state and, last, the reward, in the units that members are trained in. None for a
        family that is no ensemble.
        """
        return None

    def _missing(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} does not implement `{method}`")


class EnsembleModel(WorldModel):
    """The interface of families with several members, whose state can be set from features."""

    def elites(self) -> jax.Array:
        """(E,) indices of the members with the smallest held-out errors."""
        raise self._missing("elites")

    def predict_members(self, state: State, action: jax.Array) -> Normal:
        raise self._missing("predict_members")

    def targets(self, state: State, after: State) -> jax.Array:
        """(..., D + 1) the outcome, as members predict it, that leads from one state to another."""
        raise self._missing("targets")

    def next_state(self, state: State, outcome: jax.Array) -> State:
        """The state after an outcome (..., D + 1): the inverse of `targets`."""
        raise self._missing("next_state")

    def state_from_features(self, features: jax.Array, reward: jax.Array | None = None) -> State:
        """The state with these features (..., F), reached with this reward (...), 0 unless set."""
        raise self._missing("state_from_features")

    def regularization(self) -> dict[str, jax.Array]:
        """Terms by name that are added to the negative log-likelihood in training."""
        raise self._missing("regularization")
