"""Every option of the offline algorithms changes the trained parameters."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from worldmodel import models, policies
from worldmodel.config import StageOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.models.ensemble import Ensemble, EnsembleOptions
from worldmodel.nn import optimizer
from worldmodel.policies.bc import BCOptions
from worldmodel.policies.combo import COMBOOptions
from worldmodel.policies.iql import IQLOptions
from worldmodel.policies.mobile import MOBILEOptions
from worldmodel.policies.offline_options import OfflineOptions
from worldmodel.policies.rambo import RAMBOOptions
from worldmodel.policies.rebrac import ReBRACOptions
from worldmodel.policies.sac_n import SACOptions
from worldmodel.policies.td3_bc import TD3BCOptions

SPEC = DataSpec(
    {"x": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3, delta_rms=(0.3,) * 3)},
    ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0)),
    reward_mean_std=(0.5, 2.0),
)
STAGE = StageOptions(
    steps=10, batch_size=16, window=2, learning_rate=1e-2, warmup_steps=0, agc_clip=0.0
)
MIXED = {
    "units": 5, "layers": 1, "real_ratio": 0.5, "rollout_batch_size": 12, "horizon": 2,
    "rollout_retain": 2, "penalty": "max_aleatoric", "truncation_quantile": 0.8, "rollout_every": 1,
}  # fmt: skip
# Another value for every option.
SHARED = {
    "units": 6, "layers": 2, "actor_lr_scale": 0.5, "discount": 0.9, "tau": 0.5,
    "normalize_reward": False, "real_ratio": 0.25, "rollout_batch_size": 9, "horizon": 3,
    "rollout_every": 2, "rollout_retain": 1, "penalty": "max_pairwise", "penalty_scale": 2.0,
    "truncation_quantile": 0.2, "truncation_measure": "max_pairwise",
}  # fmt: skip
SMOOTHED = {"policy_noise": 0.6, "noise_clip": 0.1, "policy_delay": 1}
SAC = {"num_critics": 3, "layer_norm": True, "backup_entropy": False, "eta": 1.0}
ALGORITHMS: dict[type[OfflineOptions], dict[str, Any]] = {
    TD3BCOptions: {"alpha": 1.0} | SMOOTHED,
    ReBRACOptions: {"layer_norm": False, "actor_bc_coef": 1.0, "critic_bc_coef": 1.0} | SMOOTHED,
    IQLOptions: {"expectile": 0.9, "inverse_temperature": 1.0, "max_weight": 1.0},
    SACOptions: SAC,
    COMBOOptions: SAC | {"backup_entropy": True, "cql_weight": 2.0, "cql_n_actions": 3},
    RAMBOOptions: SAC | {"adversarial_scale": 1.0, "bc_steps": 2},
    MOBILEOptions: SAC
    | {"inconsistency_scale": 0.5, "num_samples": 3, "nonnegative_targets": True},
}
START = {RAMBOOptions: {"bc_steps": 1}}  # so that its model is trained too
# Options of rewards and values.
UNUSED_BY_CLONING = ("discount", "tau", "normalize_reward", "penalty", "penalty_scale")
OWN = [(kind, name) for kind, changes in ALGORITHMS.items() for name in changes]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Ensemble:
    options = EnsembleOptions(num_members=3, num_elites=2, units=4, layers=1, termination="never")
    return models.build(options, SPEC, jax.random.key(0))


@pytest.fixture(scope="module")
def window() -> Window:
    rng, shape = np.random.default_rng(0), (16, 2)
    no = np.zeros(shape, bool)
    return Window(
        {"x": rng.normal(size=(*shape, 3)).astype(np.float32)},
        rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
        no, no, no, ~no,
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned(model: Ensemble, window: Window) -> Any:
    known: dict[Any, Any] = {}

    def after_updates(options: OfflineOptions) -> Any:
        """Parameters after three updates, with a refresh where one is due; each run only once."""
        if (key := repr(options)) not in known:
            learner = policies.build(options, model, SPEC, optimizer.build(STAGE), jnp.float32)
            update, renew = jax.jit(learner.update), jax.jit(learner.collect_rollouts)
            state = learner.init(jax.random.key(0))
            for step in range(3):
                if step % learner.rollout_every == 0:
                    taken = jax.tree.map(lambda x: x[: learner.rollout_windows], window)
                    state = renew(state, taken, jax.random.key(step))
                state, _ = update(state, window, jax.random.key(step))
            known[key] = jax.tree.map(np.asarray, state.params)
        return known[key]

    return after_updates


def differ(one: Any, other: Any) -> bool:
    pairs = jax.tree.leaves(one), jax.tree.leaves(other)
    if [x.shape for x in pairs[0]] != [x.shape for x in pairs[1]]:
        return True
    return any(not np.array_equal(x, y) for x, y in zip(*pairs, strict=True))


def test_every_option_is_tested() -> None:
    for kind, changes in ALGORITHMS.items():
        assert {f.name for f in fields(kind)} - {"name"} == SHARED.keys() | changes.keys(), kind


@pytest.mark.parametrize("kind, name", OWN, ids=lambda x: getattr(x, "__name__", x))
def test_every_option_of_an_algorithm_has_an_effect(kind, name, learned) -> None:
    options = replace(kind(**MIXED), **START.get(kind, {}))
    changed = replace(options, **{name: ALGORITHMS[kind][name]})
    assert differ(learned(options), learned(changed))


@pytest.mark.parametrize("kind", [TD3BCOptions, SACOptions])
@pytest.mark.parametrize("name", SHARED)
def test_every_shared_option_has_an_effect(kind, name, learned) -> None:
    options = kind(**MIXED)
    assert differ(learned(options), learned(replace(options, **{name: SHARED[name]})))


@pytest.mark.parametrize("name", UNUSED_BY_CLONING)
def test_options_of_rewards_have_no_effect_on_cloning(name, learned) -> None:
    options = BCOptions(**MIXED)
    assert not differ(learned(options), learned(replace(options, **{name: SHARED[name]})))
