"""The plan of a run: its stages in order, with the numbers that the options give them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from small_runs import MLP, RSSM, STAGE, random_trajectories, small_config

from worldmodel.config import Config, StageOptions
from worldmodel.data.spec import DataSpec
from worldmodel.errors import ConfigError
from worldmodel.models.observed import ObservedOptions
from worldmodel.policies.actor_critic import ActorCriticOptions
from worldmodel.policies.bc import BCOptions
from worldmodel.training.plan import plan_stages

ACTOR_CRITIC = ActorCriticOptions(hidden=8, horizon=2)


@pytest.fixture(scope="module")
def spec() -> DataSpec:
    return replace(random_trajectories().spec(), has_reward=True)


@pytest.mark.parametrize(
    ("model", "policy", "training", "names"),
    [
        (MLP, None, {}, ["world_model"]),
        (RSSM, ACTOR_CRITIC, {}, ["world_model", "policy"]),
        (RSSM, ACTOR_CRITIC, {"joint": True}, ["joint"]),
        (MLP, ACTOR_CRITIC, {"pretrained_model": "runs/other"}, ["policy"]),
        (ObservedOptions(), BCOptions(), {}, ["policy"]),
    ],
)
def test_the_stages_are_those_that_the_options_need(
    spec: DataSpec, model: object, policy: object, training: dict, names: list[str]
) -> None:
    config = small_config(model)
    config = replace(config, training=replace(config.training, **training))
    config = replace(config, policy=policy) if policy else config
    assert list(plan_stages(config, spec)) == names


def planned(spec: DataSpec, **training: object) -> Config:
    config = small_config(RSSM, policy=ACTOR_CRITIC, seed=3)
    policy = StageOptions(steps=7, batch_size=3, window=5, best_metric="loss/actor")
    return replace(config, training=replace(config.training, policy=policy, **training))


def test_each_stage_has_the_numbers_of_its_own_options(spec: DataSpec) -> None:
    config = planned(spec, num_seeds=2, gradient_accumulation_steps=4, on_divergence="rollback")
    model, policy = plan_stages(config, spec).values()
    assert (model.group, policy.group) == ("training.world_model", "training.policy")
    assert (model.steps, model.batch_size, model.window) == (STAGE.steps, 8, 6)
    assert (policy.steps, policy.batch_size, policy.window) == (7, 3, 5)
    assert (model.microbatches, policy.microbatches) == (4, 1)
    assert model.best is None and policy.best.metric == "loss/actor"
    for stage in (model, policy):
        assert (stage.seed, stage.num_seeds, stage.rollback) == (3, 2, True)
        assert (stage.log_every, stage.checkpoint_every, stage.steps_per_dispatch) == (10, 10, 5)


def test_a_joint_stage_has_the_options_of_the_world_model(spec: DataSpec) -> None:
    (stage,) = plan_stages(planned(spec, joint=True), spec).values()
    assert (stage.group, stage.steps) == ("training.world_model", STAGE.steps)


def test_a_policy_that_needs_rewards_is_refused_without_them(spec: DataSpec) -> None:
    stage = plan_stages(planned(spec), replace(spec, has_reward=False))["policy"]
    with pytest.raises(ConfigError, match="policy=actor_critic learns from rewards"):
        stage.build_learner()


def test_a_batch_holds_the_windows_of_all_seeds(spec: DataSpec) -> None:
    trajectories = random_trajectories()
    stage = plan_stages(planned(spec, num_seeds=2), spec)["policy"]
    assert stage.make_loader(trajectories).batch_size == 6
