"""Edge of reach (Sims et al., NeurIPS 2024): where rollouts are cut short, values of their last
states are used and never learned. A perfect model does not help, and a penalty on its error is 0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models, policies
from worldmodel.config import StageOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.oracle import OracleOptions
from worldmodel.nn import optimizer
from worldmodel.nn.learner import Metrics, TrainState
from worldmodel.policies.sac_n import SACOptions

SPEC = DataSpec(
    {"observation": ObservationSpec((3,), "float32", (0.0, 0.0, 0.0), (1.0, 1.0, 2.0))},
    ActionSpec(False, 1, (-2.0,), (2.0,)),
    reward_mean_std=(0.0, 3.0),
)
STAGE = StageOptions(
    steps=2000, batch_size=128, window=2, learning_rate=3e-3, warmup_steps=0, agc_clip=0.0
)
SPREAD = 0.1  # of dataset states about the upright rest position, rad and rad/s
INTERVAL, STARTS = 250, 1000


def upright(count: int, key: jax.Array) -> Window:
    """Windows of two steps that start near the upright pendulum; the second step is not used."""
    angle, speed = jax.random.uniform(key, (2, count), minval=-SPREAD, maxval=SPREAD)
    seen = jnp.stack([jnp.cos(angle), jnp.sin(angle), speed], -1)
    no = jnp.zeros((count, 2), bool)
    rows = {"observation": jnp.stack([seen, seen], 1)}
    return Window(rows, jnp.zeros((count, 2, 1)), jnp.zeros((count, 2)), no, no, no, ~no)


def values(num_critics: int, eta: float) -> np.ndarray:
    """Mean values over training on single imagined steps of the true pendulum."""
    options = SACOptions(
        num_critics=num_critics, eta=eta, backup_entropy=False, units=48, real_ratio=0.0,
        rollout_batch_size=STARTS, horizon=1, rollout_every=INTERVAL, tau=0.1,
    )  # fmt: skip
    oracle = models.build(OracleOptions(environment="Pendulum-v1"), SPEC, jax.random.key(0))
    learner = policies.build(options, oracle, SPEC, optimizer.build(STAGE), jnp.float32)

    def updates(state: TrainState, key: jax.Array) -> tuple[TrainState, Metrics]:
        start_key, key = jax.random.split(key)
        state = learner.collect_rollouts(state, upright(STARTS, start_key), start_key)
        batch = upright(STAGE.batch_size, start_key)
        return jax.lax.scan(
            lambda s, k: learner.update(s, batch, k), state, jax.random.split(key, INTERVAL)
        )

    keys = jax.random.split(jax.random.key(1), STAGE.steps // INTERVAL)
    _, metrics = jax.jit(lambda state: jax.lax.scan(updates, state, keys))(
        learner.init(jax.random.key(0))
    )
    return np.asarray(metrics["policy/value"]).reshape(-1)


@pytest.mark.slow
def test_with_true_dynamics_two_critics_diverge_and_ravl_does_not() -> None:
    """No reward of the pendulum is above 0, so no true value is: MOPO with an exact model, whose
    penalty is 0, comes to believe in thousands.
    """
    mopo, ravl = values(num_critics=2, eta=0.0), values(num_critics=10, eta=1.0)
    print(f"last values: two critics {mopo[-1]:.4g}, RAVL {ravl[-1]:.4g}")
    assert mopo[-1] > 1000
    assert np.abs(ravl).max() < 20
