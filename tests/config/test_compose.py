"""Files, groups and values on the command line compose into one typed configuration."""

from __future__ import annotations

import pytest
from composing import CONFIGS, build

from worldmodel.config import Config
from worldmodel.config.compose import choices_of
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS
from worldmodel.config.rules import config_errors
from worldmodel.data.readers.gymnasium import GymnasiumData


def test_defaults_compose_into_typed_dataclasses():
    config = build()
    assert type(config) is Config
    assert type(config.data) is GymnasiumData
    assert config.data.environment == "Pendulum-v1"
    assert config.name == "pendulum-rssm-actor_critic-0"
    assert config_errors(config) == []


def test_values_on_the_command_line_win_over_experiments_and_files():
    config = build("experiment=smoke", "training.policy.steps=7", "seed=3")
    assert config.training.policy.steps == 7
    assert config.training.world_model.steps == 60
    assert config.evaluation.episodes == 4
    assert config.name == "smoke-3"


def test_values_are_converted_to_the_type_of_their_option_where_nothing_is_lost():
    config = build(
        "training.policy.steps=1e3", "policy.entropy_scale=1", "model.deter=null", "name=7"
    )
    assert config.training.policy.steps == 1000
    assert isinstance(config.training.policy.steps, int)
    assert config.policy.entropy_scale == 1.0
    assert config.model.deter is None
    assert config.name == "7"


def test_groups_of_options_can_be_set_at_once():
    stage = build("training.policy={steps: 5, window: 6}").training.policy
    assert (stage.steps, stage.window, stage.warmup_steps) == (5, 6, 100)


def test_interpolations_work_on_the_command_line():
    assert build("name=${data.name}-${training.policy.steps}").name == "pendulum-1500"


@pytest.mark.parametrize("group", [*SCHEMA_GROUPS, *FIXED])
def test_every_choice_of_every_group_composes(group):
    needed = {
        "minari": ["data.dataset=some/set-v0"],
        "table": ["data.observations=[x,y]", "data.actions=[u]"],
        "rosbag": ["data.observations=[/x/y]", "data.actions=[/u/v]", "data.rate=20"],
    }
    for choice in choices_of(CONFIGS, group):
        words = ["data.path=logs", "data.environment=Pendulum-v1", *needed.get(choice, [])]
        assert config_errors(build(f"{group}={choice}", *words)) == []


SYSTEMS = ("wiener_hammerstein", "silverbox", "cascaded_tanks", "fine_steering_mirror")


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_are_evaluated_on_data_that_they_were_not_trained_on(name):
    config = build(f"experiment={name}", "data.path=logs")
    training, evaluation = config.data, evaluation_data_options(config)
    assert config.evaluation.free_run and evaluation.path == "logs"
    if name in ("wiener_hammerstein", "silverbox"):
        assert (
            evaluation.row_range[0] > training.row_range[1]
            or evaluation.row_range[1] < training.row_range[0]
        )
    elif name == "cascaded_tanks":
        assert not {*evaluation.observations, *evaluation.actions} & {
            *training.observations,
            *training.actions,
        }
    else:
        assert evaluation.inputs != training.inputs and evaluation.outputs != training.outputs
