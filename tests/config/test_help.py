"""The help lists every option of every choice."""

from __future__ import annotations

from composing import CONFIGS

from worldmodel.cli.train import training_help
from worldmodel.config import Config, EvalConfig
from worldmodel.config.option import iter_options
from worldmodel.config.registry import every_schema


def test_help_lists_every_option_and_choice():
    text = training_help(CONFIGS, [], "What it does.")
    for group, _, schema in every_schema():
        for option, _ in iter_options(schema(), f"{group}."):
            assert f"  {option.key} = " in text
            assert option.help.split()[0] in text
    for option, _ in iter_options(Config()):
        assert option.key in text
    for file in CONFIGS.glob("*/*.yaml"):
        assert file.stem in text
    assert "training.world_model.steps = 2000 " in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_shows_the_choices_on_the_same_command_line():
    text = training_help(CONFIGS, ["experiment=smoke", "policy=none"], "")
    assert "training.world_model.steps = 60 " in text
    assert "none*" in text and "smoke*" in text


def test_every_option_has_help():
    schemas = [Config, EvalConfig, *(schema for _, _, schema in every_schema())]
    for schema in schemas:
        for option, value in iter_options(schema()):
            assert option.help or value == "???", option.key
