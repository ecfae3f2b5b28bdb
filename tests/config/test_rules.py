"""Options that contradict each other are refused before anything starts."""

from __future__ import annotations

import pytest
from composing import build

from worldmodel.errors import ConfigError


def test_by_default_sampled_segments_have_the_length_of_training_windows():
    config = build("model=trajectory_diffusion")
    assert config.model.segment_length == config.training.world_model.window
    assert config.model.guidance_scale > 0


def test_planners_need_an_environment_dynamics_and_enough_samples():
    with pytest.raises(ConfigError, match="set data.environment"):
        build("evaluation.planner.kind=cem", "data.environment=null", "data=npz", "data.path=x")
    with pytest.raises(ConfigError, match="num_elites=9: at most .*num_samples=8"):
        build(*(f"evaluation.planner.{w}" for w in ("kind=mppi", "num_samples=8", "num_elites=9")))
    with pytest.raises(ConfigError, match="model=observed has no dynamics"):
        build("evaluation.planner.kind=mppi", "model=observed", "policy=td3_bc")
    build("evaluation.planner.kind=mppi", "model=oracle", "policy=td3_bc")
    build("evaluation.planner.num_elites=9", "evaluation.planner.num_samples=8")  # none plans


def test_joint_training_refuses_unsupported_options():
    with pytest.raises(ConfigError, match="model.ema_decay=0.998.*accepted: 0"):
        build("model=diffusion", "training.joint=true")
    with pytest.raises(ConfigError, match="condition_on_start=false.*states of the dataset"):
        words = [
            "model=trajectory_diffusion",
            "model.ema_decay=0",
            "model.condition_on_start=false",
        ]
        build(*words, "training.joint=true")


def test_a_model_without_parameters_cannot_be_trained():
    with pytest.raises(ConfigError, match="has no parameters, so there is nothing to train"):
        build("model=observed", "policy=none")
    with pytest.raises(ConfigError, match=r"training.joint=true: model=observed has no parameters"):
        build("model=observed", "training.joint=true")
    with pytest.raises(ConfigError, match="to average; accepted: 0"):
        build("model=observed", "model.ema_decay=0.9")


def test_a_model_without_dynamics_refuses_imagined_transitions():
    assert build("model=observed", "policy=td3_bc").policy.real_ratio == 1
    with pytest.raises(ConfigError, match="real_ratio=0.5: model=observed has no dynamics"):
        build("model=observed", "policy=td3_bc", "policy.real_ratio=0.5")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("policy=mobile policy.real_ratio=1", "policy=mobile needs imagined transitions"),
        ("policy=rambo policy.real_ratio=0", "needs dataset transitions, and none of the 256"),
        ("policy=combo policy.real_ratio=0.001", "needs dataset transitions"),
        (
            "policy=mopo policy.penalty=epistemic_std model.num_members=1 model.num_elites=1",
            "members of 2",
        ),
        (
            "policy=ravl policy.truncation_quantile=1 policy.truncation_measure=max_pairwise "
            "model.num_members=1 model.num_elites=1",
            "truncation_measure=max_pairwise: .* model.num_members of 2",
        ),
        ("policy=mobile model.num_elites=1", "model.num_elites=1: policy=mobile measures"),
        ("policy=edac policy.num_critics=1", "policy.eta=1: .* accepted: 2 critics or more"),
    ],
)
def test_a_method_is_refused_without_what_it_needs(words, expected):
    with pytest.raises(ConfigError, match=expected):
        build(*words.split())


def test_a_single_member_supports_aleatoric_penalties():
    build("policy=mopo", "model.num_members=1", "model.num_elites=1")


def test_an_oracle_needs_the_environment_of_the_dataset():
    assert build("model=oracle").model.environment == "Pendulum-v1"
    with pytest.raises(ConfigError, match="model.environment: needs a Gymnasium id"):
        build("model=oracle", "data=npz", "data.path=logs.npz")
