"""Rollouts under a policy, their transforms, planners and policies refuse arguments of other types
and shapes in words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from worldmodel import models, planning
from worldmodel.config import PlannerOptions
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.errors import UserError
from worldmodel.imagination import imagine, penalize, time_major, truncate, with_uncertainty
from worldmodel.models.ensemble import EnsembleOptions
from worldmodel.models.mlp import MLPOptions
from worldmodel.policies.networks import NormalActor

KEY, STD = jax.random.key(0), "ensemble_std"
SPEC = DataSpec(
    {"x": ObservationSpec((3,), "float32", (0.0,) * 3, (1.0,) * 3, delta_rms=(0.3,) * 3)},
    ActionSpec(False, 2, (-1.0, -1.0), (1.0, 1.0)),
    reward_mean_std=(0.0, 2.0),
)
OPTIONS = PlannerOptions(
    kind="cem", horizon=3, num_samples=4, num_elites=2, iterations=1, num_policy_samples=2
)


def actor_of(features: int = 3, actions: int = 2) -> NormalActor:
    return NormalActor(features, actions, 4, 1, rngs=nnx.Rngs(params=1))


@pytest.fixture(scope="module")
def right() -> SimpleNamespace:
    """An ensemble with what fits to it, and another model."""
    options = EnsembleOptions(num_members=2, num_elites=2, units=4, layers=1)
    model, actor = models.build(options, SPEC, KEY), actor_of()
    start = model.initial((4,))
    rollout = jax.jit(lambda: imagine(model, start, actor, 3, KEY))()
    planner = planning.build(OPTIONS, SPEC, actor)
    assert planner is not None
    return SimpleNamespace(
        model=model, start=start, actor=actor, rollout=rollout, planner=planner,
        measured=replace(rollout, uncertainty=jnp.ones((4, 3))), plan=planner.init_carry(4),
        other=models.build(MLPOptions(units=4, latent_dim=4), SPEC, KEY),
    )  # fmt: skip


def rolled(actor: Any) -> Callable[[Any], Any]:
    return lambda x: imagine(x.model, x.start, actor, 3, KEY)


def built(**changes: Any) -> Callable[[Any], Any]:
    return lambda x: planning.build(replace(OPTIONS, **changes), SPEC)


def planned(**changes: Any) -> Callable[[Any], Any]:
    """A call of the planner with other arguments: values, or functions of what is right."""

    def call(x: Any) -> Any:
        given = {"model": x.model, "state": x.start, "plan": x.plan, "key": KEY}
        changed = {k: v(x) if callable(v) else v for k, v in changes.items()}
        return x.planner(**given | changed)

    return call


def first(x: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], x.start)


CALLS: list[tuple[Callable[[Any], Any], str]] = [
    # ------------------------------------------------------------------------- rollouts and actors
    (rolled("policy"), "actions: str; accepted: numbers"),
    (rolled(NormalActor), r"actor: ModuleMeta; accepted: a function from features \(4, 3\)"),
    (rolled(actor_of(features=5)), r"network: float32 \(4, 3\); accepted: arrays \(..., 5\)"),
    (rolled(actor_of(actions=1)), r"its actions are float32 \(4, 1\); .* over actions \(4, 2\)"),
    (rolled(lambda features, key: features), "actor: .*missing 1 required.*; accepted: a function"),
    (rolled(np.full((4, 3, 2), np.nan)), r"actions: nan at \(0, 0, 0\); accepted: finite"),
    (rolled(np.full((4, 3, 2), "left")), r"actions: <U4 \(4, 3, 2\); accepted: numbers"),
    (rolled(np.zeros((4, 3, 2), complex)), r"actions: complex128"),
    (lambda x: imagine(x.model, x.model.initial((0,)), x.actor, 3, KEY), "accepted: B of 1 or"),
    (lambda x: imagine(x.model, x.other.initial((4,)), x.actor, 3, KEY), "another structure"),
    # ---------------------------------------------------------------------- transforms of rollouts
    (lambda x: with_uncertainty(x.model, "ensemble_sdt"), r"accepted: .*mean 'ensemble_std'\?"),
    (lambda x: with_uncertainty(x.model, [STD]), r"unknown uncertainty \['ensemble_std'\]"),
    (lambda x: with_uncertainty(None, STD), "model: NoneType; accepted: a WorldModel"),
    (lambda x: with_uncertainty(x.model, STD)(None), "rollout: NoneType; accepted: a Rollout"),
    (lambda x: with_uncertainty(x.model, STD)(time_major(x.rollout)), "accepted: .*batch-first"),
    (lambda x: with_uncertainty(x.other, STD)(x.rollout), "rollout.states: .*another structure"),
    (lambda x: penalize(x.rollout, 0.5), r"no uncertainty; apply with_uncertainty\(...\) first"),
    (lambda x: penalize(None, 0.5), "rollout: NoneType; accepted: a Rollout"),
    (lambda x: penalize(x.measured, "0.5"), r"coefficient: str; accepted: a number, or an array"),
    (lambda x: penalize(x.measured, np.ones(7)), r"coefficient: float64 \(7,\); .* \(4, 3\)"),
    (lambda x: truncate(x.measured, None), "limit: NoneType; accepted: a number"),
    (lambda x: truncate(x.measured, float("nan")), "limit: float; accepted: a number"),
    (lambda x: time_major(3), "rollout: int; accepted: a Rollout"),
    # ------------------------------------------------------------------------------------ planners
    (lambda x: planning.build({"kind": "cem"}, SPEC), "options: dict; accepted: PlannerOptions"),
    (lambda x: planning.build(OPTIONS, None), "spec: NoneType; accepted: a DataSpec"),
    (lambda x: planning.build(OPTIONS, SPEC, "actor"), "actor: str; accepted: None, or a function"),
    (lambda x: planning.build(OPTIONS, SPEC, None, len), "value: no discount; accepted: a value"),
    (built(kind="cme"), r"planner.kind=cme: accepts one of .*mean 'cem'\?"),
    (built(horizon=0), "planner.horizon=0: accepts integer, 1 or more"),
    (built(iterations="3"), "planner.iterations=3: accepts integer"),
    (built(discount=2.0), "planner.discount=2: accepts number, 0 to 1"),
    (built(initial_std=float("nan")), "planner.initial_std=nan: accepts number"),
    (built(num_elites=5), "planner.num_elites=5: at most planner.num_samples=4"),
    (lambda x: x.planner.init_carry(-1), "batch: -1; accepted: an integer, at least 1"),
    (planned(model=None), "model: NoneType; accepted: a WorldModel"),
    (planned(model=lambda x: x.other), "state: EnsembleState of another structure; accepted"),
    (planned(state=None), "state: NoneType of another structure"),
    (planned(state=first), r"state: float32 \(3,\), float32 \(\); accepted"),
    (planned(state=lambda x: x.model.initial((3,))), r"plan: float32 \(4, 3, 2\); .* \(3, 3, 2\)"),
    (planned(plan=None), r"plan: NoneType; accepted: float32 \(4, 3, 2\), as `init_carry` returns"),
    (planned(plan=lambda x: x.plan[:, :2]), r"plan: float32 \(4, 2, 2\); accepted"),
    (planned(plan=np.zeros((4, 3, 2), int)), r"plan: int64 \(4, 3, 2\); accepted: float32"),
    (planned(key=0), "key: int; accepted: one key"),
    (planned(key=jax.random.split(KEY)), r"key: key<fry> \(2,\); accepted: one key"),
    (lambda x: x.planner.returns(x.model, x.start, x.plan, KEY), r"accepted: candidates \(B, N, H"),
    # ------------------------------------------------------------------------------------ policies
    (lambda x: x.actor(None), r"network: NoneType; accepted: arrays \(..., 3\)"),
    (lambda x: x.actor(jnp.zeros((4, 5))), r"network: float32 \(4, 5\); accepted: arrays"),
    (lambda x: x.actor(x.start), "network: EnsembleState; accepted: arrays"),
]


@pytest.mark.parametrize("call, expected", CALLS, ids=[expected for _, expected in CALLS])
def test_wrong_arguments_are_refused(
    right: SimpleNamespace, call: Callable[[Any], Any], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        call(right)


def test_what_fits_is_accepted_and_checked_when_traced(right: SimpleNamespace) -> None:
    x = right
    penalized = penalize(x.measured, np.float32([0.5, 1.0, 2.0]))
    np.testing.assert_array_equal(
        penalized.rewards, x.rollout.rewards - np.float32([0.5, 1.0, 2.0])
    )
    traced = jax.eval_shape(lambda key: x.planner(x.model, x.start, x.plan, key), KEY)
    assert [part.shape for part in traced] == [(4, 3, 2), (4, 2)]
    with pytest.raises(UserError, match="plan: NoneType"):
        jax.eval_shape(lambda key: x.planner(x.model, x.start, None, key), KEY)
