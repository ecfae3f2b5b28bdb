"""Configurations are saved, loaded, changed and compared."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from composing import build

from worldmodel.config.io import differences, load_config, save_config, with_overrides
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import ConfigError


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["experiment=smoke"],
        ["data=tfds", "data.path=logs", "policy=none"],
        ["evaluation.data={episodes: 3, action_low: [-1.0], action_high: [1.0]}"],
    ],
)
def test_a_config_survives_saving_and_loading(tmp_path, words):
    config = build(*words)
    save_config(config, tmp_path / "config.yaml")
    loaded = load_config(tmp_path / "config.yaml")
    assert loaded == config
    assert type(loaded.data) is type(config.data)
    assert differences(config, loaded) == []
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_an_option_missing_on_disk_has_its_default(tmp_path):
    save_config(build(), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(re.sub(r"\n +free_nats: .*", "", text))
    assert load_config(tmp_path / "config.yaml") == build()


@pytest.mark.parametrize(
    ("pattern", "replacement", "expected"),
    [
        ("seed: 0", "sead: 0", "'seed'"),
        ("seed: 0", "seed: zero", "seed=zero: accepts integer"),
        ("seed: 0", "seed: {", "not a readable YAML file"),
        ("window: 16", "windw: 16", "'training.autoencoder.window'"),
        ("data: gymnasium", "data: gymnasum", "data=gymnasum: accepts one of dreamer, gymnasium"),
        (r"(?s).*", "just text", "config.yaml"),
        (r"(?s).*", "", "config.yaml"),
    ],
)
def test_a_damaged_config_is_refused_with_its_file_and_key(
    tmp_path, pattern, replacement, expected
):
    path = tmp_path / "config.yaml"
    save_config(build(), path)
    text = re.sub(pattern, replacement, path.read_text(), count=1)
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(path) in str(raised.value)
    assert expected in str(raised.value)


def test_a_missing_config_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "config.yaml")


def test_differences_name_what_changes_the_computation():
    old = build()
    new = build("training.world_model.steps=9", "evaluation.horizons=[1]", "fresh=true")
    new.logging.wandb = "disabled"
    new.training.max_to_keep = 7
    assert differences(old, new) == ["training.world_model.steps: 2000 -> 9"]


def test_differences_show_options_that_only_one_has():
    old = build()
    new = dataclasses.replace(old, data=TFDSData(path="logs"))
    lines = differences(old, new)
    assert "data.split: absent -> train" in lines
    assert "data.episodes: 200 -> absent" in lines


def test_a_run_from_before_an_option_can_resume(tmp_path):
    """An older config.yaml lacks options; what they stand for now is what it was trained with."""
    save_config(build(), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    older = re.sub(r"\n  autoencoder:(\n    .*)+", "", re.sub(r"\n +ema_decay: .*", "", text))
    assert "autoencoder:" not in older and " ema_decay:" not in older
    (tmp_path / "config.yaml").write_text(older)
    assert differences(load_config(tmp_path / "config.yaml"), build()) == []


def test_a_changed_config_is_a_validated_copy():
    config = build()
    given = {"planner": {"kind": "mppi"}, "planner.horizon": 7, "episodes": 3}
    options = with_overrides(config, {"evaluation": given}).evaluation
    assert (options.planner.kind, options.planner.horizon, options.episodes) == ("mppi", 7, 3)
    assert config == build()
    with pytest.raises(ConfigError, match="'evaluation.planner.kind'"):
        with_overrides(config, {"evaluation": {"planner": {"knid": "cem"}}})
    with pytest.raises(ConfigError, match="num_elites=64"):
        with_overrides(config, {"evaluation": {"planner": {"kind": "cem", "num_samples": 8}}})


def test_values_from_python_are_accepted_or_refused_in_words():
    config = build()
    changed = with_overrides(
        config, {"seed": np.int64(3), "policy": {"entropy_scale": np.float32(1)}}
    )
    assert (changed.seed, changed.policy.entropy_scale) == (3, 1.0)
    for key in ("seed", "name", "data.holdout"):
        with pytest.raises(ConfigError, match=rf"{key}=\(hundreds of digits\): accepts"):
            with_overrides(config, {key: 10**5000})
