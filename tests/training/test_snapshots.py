"""The best parameters of each member are kept while training continues."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.nn.learner import TrainState, graphdefs_of, split_module
from worldmodel.training.evaluated_parameters import MIN_HELD_OUT_STEPS, BestMembersLearner
from worldmodel.training.learners import trained_modules

KEY = jax.random.key(0)
TURNS = np.array([3, 5, 8])  # the comparison at which each member is best
BATCH = MIN_HELD_OUT_STEPS // 2  # held-out timesteps: a comparison every second update


class Weights(nnx.Module):
    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.zeros((3, 2)))


class Members(nnx.Module):
    """Each member's error is the square of its weight, scaled by how difficult a batch is."""

    def __init__(self) -> None:
        self.networks, self.shared = Weights(), nnx.Param(jnp.zeros(()))
        self.errors = nnx.Variable(jnp.zeros(3))

    def holdout_errors(self, hardness: jax.Array) -> tuple[jax.Array, jax.Array]:
        return BATCH * hardness * jnp.square(self.networks.weight[:, 0]), jnp.int32(BATCH)


class Turning:
    """A learner whose members come closer to zero until their turn and then move away."""

    def __init__(self) -> None:
        self.graphdefs = graphdefs_of(lambda key: {"model": Members()})

    def init(self, key: jax.Array) -> TrainState:
        return TrainState(
            {"model": split_module(Members())[1]}, {}, (), {}, {}, jnp.zeros((), jnp.int32)
        )

    def update(self, state: TrainState, batch: jax.Array, key: jax.Array) -> tuple:
        step = state.step + 1
        weight = 1.0 + jnp.abs((step + 1) // 2 - TURNS)  # the same for both halves of a comparison
        weight = jnp.stack([weight, -weight], 1)
        model = state.params["model"] | {"networks": {"weight": weight}, "shared": 1.0 * step}
        return replace(state, params={"model": model}, step=step), {}


def run(updates: int, hardness: list[float]) -> nnx.Module:
    learner = BestMembersLearner(Turning())
    state, update = learner.init(KEY), jax.jit(learner.update)
    for step in range(updates):
        state, _ = update(state, jnp.float32(hardness[step % len(hardness)]), KEY)
    return trained_modules(learner, state)["model"]


def test_each_member_is_kept_at_its_best_with_its_error():
    model = run(24, [1.0])
    np.testing.assert_array_equal(model.networks.weight[...], [[1.0, -1.0]] * 3)
    np.testing.assert_allclose(model.errors[...], 1.0)
    assert float(model.shared[...]) == 24  # what no member owns is the last


def test_members_that_still_improve_are_kept_as_of_the_last_comparison():
    model = run(8, [1.0])  # after the fourth comparison
    np.testing.assert_array_equal(model.networks.weight[:, 0], [1.0, 2.0, 5.0])
    np.testing.assert_allclose(model.errors[...], [1.0, 4.0, 25.0])


def test_easier_batches_do_not_count_as_an_improvement():
    """Batches get ten times easier after every member was at its best: current and best parameters
    are compared on the same ones.
    """
    model = run(24, [1.0] * 16 + [0.1] * 8)
    np.testing.assert_array_equal(model.networks.weight[:, 0], [1.0, 1.0, 1.0])
    np.testing.assert_allclose(model.errors[...], 0.1, rtol=1e-6)


def test_before_the_first_comparison_the_snapshot_is_the_current_model():
    model = run(1, [1.0])
    np.testing.assert_array_equal(model.networks.weight[:, 0], [3.0, 5.0, 8.0])
    np.testing.assert_array_equal(model.errors[...], 0.0)


def test_the_snapshot_is_a_copy_of_the_parameters():
    """The loop donates the state: the same buffer twice would be an error."""
    state = BestMembersLearner(Turning()).init(KEY)
    jax.block_until_ready(jax.jit(lambda state: state, donate_argnums=0)(state))
