"""Every invalid option is reported with its key, the accepted values and the nearest match."""

from __future__ import annotations

import shutil

import pytest
from composing import CONFIGS, message

from worldmodel.config.compose import build_config
from worldmodel.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("training.world_model.stepz=3", ["'training.world_model.steps'", "accepts: agc_clip"]),
        ("trainin.policy.steps=3", ["'training.policy.steps'"]),
        ("steps=3", ["'training.world_model.steps' or 'training.policy.steps'"]),
        ("sed=3", ["sed: no such option", "'seed'", "runs_dir"]),
        ("dta=pendulum", ["'data'"]),
        (
            "data=pendulm",
            ["data=pendulm", "npz, pendulum, pickle, records", "'pendulum'"],
        ),
        ("experiment=smok", ["'smoke'"]),
        ("data=null", ["data=null: accepts one of dreamer, gymnasium"]),
        ("data@here=pendulum", ["data=CHOICE"]),
        ("seed=abc", ["seed=abc: accepts integer, 0 to 2147483647"]),
        ("seed=1.5", ["seed=1.5: accepts integer"]),
        ("seed=true", ["seed=true: accepts integer"]),
        ("seed=null", ["seed=null: accepts integer"]),
        ("seed=-1", ["seed=-1: accepts integer, 0 to"]),
        ("fresh=5", ["fresh=5: accepts true or false"]),
        ("policy.entropy_scale=nan", ["policy.entropy_scale=nan: accepts number, 0 or more"]),
        ("policy.entropy_scale=inf", ["policy.entropy_scale=inf: accepts number"]),
        ("evaluation.horizons=5", ["list [a,b,...] of integers, each 1 or more"]),
        ("evaluation.horizons=[5,0]", ["evaluation.horizons=[5,0]: accepts list"]),
        ("evaluation.horizons=[]", ["evaluation.horizons=[]: accepts list"]),
        ("model.preset=2m", ["tiny, 1m, 12m", "did you mean"]),
        ("training.policy=3", ["training.policy: is a group of options", "steps"]),
        ("training.policy={stepz: 3}", ["training.policy.stepz", "'training.policy.steps'"]),
        ("evaluation.horizons=[1,2", ["evaluation.horizons=[1,2"]),
        ("seed", ["seed: expected key=value"]),
        ("seed=1,2", ["seed=1,2: several values need --multirun"]),
        ("evaluation.horizons=1,2", ["--multirun", "evaluation.horizons=[1,2]"]),
        ("data=pendulum,tfds", ["--multirun"]),
        ("+seed=3", ["only set: seed=3"]),
        ("++new.key=3", ["cannot be added"]),
        ("~seed", ["cannot be added or removed"]),
        ("hydra.run.dir=here", ["train.py --multirun only"]),
        ("name=${data.nam}", ["name: Interpolation key 'data.nam' not found"]),
        ("seed=${model.preset}", ["seed: ", "could not be converted to Integer"]),
        ("evaluation.data.holdut=0.5", ["'evaluation.data.holdout'"]),
        ("evaluation.data.holdout=5", ["evaluation.data.holdout=5: accepts number, 0 to 0.9"]),
        ("evaluation.data.format=npy", ["evaluation.data.format=npy: accepts", "'npz'"]),
        ("evaluation.data=3", ["evaluation.data=3: accepts options {KEY: VALUE, ...}"]),
        ("name=a/b", ["name=a/b: is the name of a directory"]),
        ("name=..", ["name=..: is the name of a directory"]),
        ("data=gymnasium", ["data.environment needs"]),
        ("data=tfds", ["data.path or data.builder needs"]),
        ("model.blocks=7", ["model.deter=128 (of preset tiny)", "model.blocks=7"]),
        ("model.deter=101", ["model.deter=101: must be divisible by model.blocks=2"]),
        ("policy=none training.joint=true", ["training.joint=true: needs a policy"]),
        ("policy=none policy.horizon=3", ["policy.horizon", "belongs to policy=actor_critic"]),
    ],
)
def test_an_error_names_the_key_and_the_accepted_values(words, expected):
    # The dictionary form holds a space of its own.
    text = message(*([words] if "{" in words else words.split()))
    assert all(part in text for part in expected), text
    assert len(text.splitlines()) <= 3


def test_all_errors_are_listed_at_once():
    text = message("sead=1", "model.preset=2m", "training.policy.steps=0", "fresh=maybe")
    assert [line.split(":")[0] for line in text.splitlines() if not line.startswith(" ")] == [
        "sead",
        "model.preset=2m",
        "training.policy.steps=0",
        "fresh=maybe",
    ]


def test_a_long_list_of_errors_is_truncated():
    text = message(*(f"no_such_option_{i}=1" for i in range(30))).splitlines()
    assert text[-1] == "... and 20 more"


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("training/default", "stepz: 3", ["training.stepz", "training accepts"]),
        ("training/default", "log_every: often", ["'often'", "training.log_every accepts integer"]),
        ("training/default", "log_every: 0", ["training.log_every=0: accepts integer, 1 or more"]),
        ("training/default", "log_every: {", ["default.yaml", "line"]),
        ("config", "sead: 3", ["sead: no such option", "'seed'"]),
    ],
)
def test_errors_in_files_are_reported(tmp_path, file, line, expected):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    with (configs / f"{file}.yaml").open("a") as stream:
        stream.write(f"\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        build_config(configs, [])
    assert all(text in str(raised.value) for text in expected), str(raised.value)


def test_a_required_value_that_no_file_sets_is_reported(tmp_path):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    file = configs / "training" / "default.yaml"
    file.write_text(file.read_text().replace("  steps: 2000\n", "", 1))
    with pytest.raises(ConfigError, match="training.world_model.steps needs a value: integer"):
        build_config(configs, [])
