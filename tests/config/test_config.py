"""Options: what is accepted, how mistakes are told, and how a config travels to disk and back."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worldmodel.cli.eval import EvalRequest, parse_eval
from worldmodel.cli.sweep import plan_sweep
from worldmodel.cli.train import run_training, training_help
from worldmodel.config import Config, EvalConfig
from worldmodel.config.arguments import parse_overrides
from worldmodel.config.compose import build_config
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.io import differences, load_config, save_config, with_overrides
from worldmodel.config.option import iter_options
from worldmodel.config.registry import FIXED, SCHEMA_GROUPS, every_schema
from worldmodel.config.rules import config_errors
from worldmodel.data.readers.gymnasium import GymnasiumData
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"


def build(*words: str) -> Config:
    return build_config(CONFIGS, parse_overrides(words))


def message(*words: str) -> str:
    with pytest.raises(ConfigError) as raised:
        build(*words)
    return str(raised.value)


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


# ------------------------------------------------------------------------------------- composition


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


def test_numbers_are_taken_where_nothing_is_lost():
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
    }
    for file in (CONFIGS / group).glob("*.yaml"):
        words = ["data.path=logs", "data.environment=Pendulum-v1", *needed.get(file.stem, [])]
        assert config_errors(build(f"{group}={file.stem}", *words)) == []


SYSTEMS = ("wiener_hammerstein", "silverbox", "cascaded_tanks", "fine_steering_mirror")


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_are_judged_on_other_rows_than_they_are_trained_on(name):
    config = build(f"experiment={name}", "data.path=logs")
    known, judged = config.data, evaluation_data_options(config)
    assert config.evaluation.free_run and judged.path == "logs"
    if name in ("wiener_hammerstein", "silverbox"):
        assert judged.row_range[0] > known.row_range[1] or judged.row_range[1] < known.row_range[0]
    elif name == "cascaded_tanks":
        assert not {*judged.observations, *judged.actions} & {*known.observations, *known.actions}
    else:
        assert judged.inputs != known.inputs and judged.outputs != known.outputs


# ---------------------------------------------------------------------------------------- mistakes


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
            ["data=pendulm", "npz, pendulum, records, table, tfds", "'pendulum'"],
        ),
        ("experiment=smok", ["'smoke'"]),
        ("data=null", ["data=null: accepts one of gymnasium"]),
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
def test_a_mistake_names_the_key_and_what_is_accepted(words, expected):
    # The dictionary form holds a space of its own.
    told = message(*([words] if "{" in words else words.split()))
    assert all(text in told for text in expected), told
    assert len(told.splitlines()) <= 3


def test_all_mistakes_are_listed_at_once():
    told = message("sead=1", "model.preset=2m", "training.policy.steps=0", "fresh=maybe")
    assert [line.split(":")[0] for line in told.splitlines() if not line.startswith(" ")] == [
        "sead",
        "model.preset=2m",
        "training.policy.steps=0",
        "fresh=maybe",
    ]


def test_a_long_list_of_mistakes_is_cut():
    told = message(*(f"no_such_option_{i}=1" for i in range(30))).splitlines()
    assert told[-1] == "... and 20 more"


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
def test_mistakes_in_files_are_told_too(tmp_path, file, line, expected):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    with (configs / f"{file}.yaml").open("a") as stream:
        stream.write(f"\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        build_config(configs, [])
    assert all(text in str(raised.value) for text in expected), str(raised.value)


def test_a_value_that_no_file_gives_is_asked_for(tmp_path):
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    file = configs / "training" / "default.yaml"
    file.write_text(file.read_text().replace("  steps: 2000\n", "", 1))
    with pytest.raises(ConfigError, match="training.world_model.steps needs a value: integer"):
        build_config(configs, [])


@pytest.mark.parametrize(
    ("script", "words", "expected"),
    [
        ("train.py", ["training.world_model.stepz=3"], "'training.world_model.steps'"),
        ("train.py", ["data=pendulm"], "'pendulum'"),
        ("train.py", ["seed=abc"], "integer, 0 to"),
        ("train.py", ["--seed=3"], "options have no dashes: seed=3"),
        ("train.py", ["-m", "seed=0,1,x", "experiment=smoke"], "seed=x: accepts integer"),
        ("eval.py", ["rum=runs/x"], "'run'"),
    ],
)
def test_a_mistake_ends_with_status_2_and_a_few_lines(script, words, expected, tmp_path):
    done = python(str(ROOT / script), *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_found_before_a_device_is_taken(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "none_such")  # whoever takes a device fails
    done = python("train.py", "training.world_model.stepz=3")
    assert done.returncode == 2
    assert "no such option" in done.stderr


# --------------------------------------------------------------------------- exit statuses, sweeps

DRIVER = """
import sys
from worldmodel.cli.train import run_training
from worldmodel.errors import DataError

def job(config):
    print("ran", config.name, config.seed)
    if config.seed == 1:
        raise DataError("no logs here")
    if config.seed == 2:
        raise RuntimeError("unexpected")
    return 75 if config.seed == 3 else None

if __name__ == "__main__":
    sys.exit(run_training(job, __file__, "A job."))
"""


@pytest.fixture
def driver(tmp_path) -> Path:
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "train.py").write_text(DRIVER)
    return tmp_path


@pytest.mark.parametrize(("seed", "status"), [(0, 0), (1, 2), (2, 1), (3, 75)])
def test_exit_status_tells_how_the_job_ended(driver, monkeypatch, capsys, seed, status):
    def job(config):
        outcomes = {0: None, 1: ConfigError("mend this"), 2: RuntimeError("unexpected"), 3: 75}
        outcome = outcomes[config.seed]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(sys, "argv", ["train.py", f"seed={seed}"])
    if status == 1:  # left to Python: a traceback and status 1
        with pytest.raises(RuntimeError, match="unexpected"):
            run_training(job, str(driver / "train.py"), "")
        return
    assert run_training(job, str(driver / "train.py"), "") == status
    assert capsys.readouterr().err == ("error: mend this\n" if status == 2 else "")


@pytest.mark.parametrize(
    ("seeds", "status", "ran"),
    [
        ("0,4", 0, [0, 4]),
        ("0,1,4", 2, [0, 1, 4]),
        ("2,4", 1, [2, 4]),
        ("0,3,4", 75, [0, 3]),
    ],
)
def test_a_sweep_runs_its_jobs_and_tells_of_failures(driver, seeds, status, ran):
    done = python("train.py", "--multirun", f"seed={seeds}", cwd=driver)
    assert done.returncode == status, done.stderr
    assert [int(s) for s in re.findall(r"ran \S+ (\d+)", done.stdout)] == ran
    left = {p.name for p in driver.iterdir()} - {"configs", "train.py", "__pycache__"}
    assert left == {"runs"}  # no outputs/ or multirun/ named by a clock
    assert [p.name for p in (driver / "runs").rglob("*")] == [".multirun", "multirun.yaml"]


def test_a_sweep_whose_jobs_share_a_name_is_refused():
    with pytest.raises(ConfigError, match="name=pendulum-rssm-actor_critic-0: jobs .* have the same name"):
        plan_sweep(CONFIGS, ["training.policy.steps=1,2"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=range(0,3)", "policy=glob(*)", "policy.horizon=5"], "belongs to policy=actor"),
        (["policy=glob(x*)"], "matches no choice"),
        (["seed=interval(0,3)"], "needs an optimizing sweeper"),
    ],
)
def test_mistakes_in_a_sweep_are_found_before_its_first_job(words, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        plan_sweep(CONFIGS, words)


# -------------------------------------------------------------------------------------------- help


def test_help_lists_every_option_and_choice():
    told = training_help(CONFIGS, [], "What it does.")
    for group, _, schema in every_schema():
        for option, _ in iter_options(schema(), f"{group}."):
            assert f"  {option.key} = " in told
            assert option.help.split()[0] in told
    for option, _ in iter_options(Config()):
        assert option.key in told
    for file in CONFIGS.glob("*/*.yaml"):
        assert file.stem in told
    assert "training.world_model.steps = 2000 " in told
    assert max(map(len, told.splitlines())) <= 100


def test_help_shows_the_choices_on_the_same_command_line():
    told = training_help(CONFIGS, ["experiment=smoke", "policy=none"], "")
    assert "training.world_model.steps = 60 " in told
    assert "none*" in told and "smoke*" in told


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_is_printed_with_status_0(script):
    done = python(script, "--help")
    assert done.returncode == 0, done.stderr
    assert "evaluation.episodes = 50" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_option_has_help():
    schemas = [Config, EvalConfig, *(schema for _, _, schema in every_schema())]
    for schema in schemas:
        for option, value in iter_options(schema()):
            assert option.help or value == "???", option.key


# ----------------------------------------------------------------------------------------- eval.py


@pytest.fixture
def run_directory(tmp_path) -> str:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    save_config(build(), run / "config.yaml")
    return str(run)


def test_evaluation_returns_only_what_was_given(run_directory):
    words = [f"run={run_directory}", "evaluation.episodes=10", "evaluation.horizons=[1,2]"]
    given = {"episodes": 10, "horizons": [1, 2]}
    assert parse_eval(words) == EvalRequest([run_directory], "last", given)
    assert parse_eval([words[0], "checkpoint=2000"]) == EvalRequest([run_directory], "2000")
    planned = parse_eval([words[0], "evaluation.planner.kind=cem"])
    assert planned == EvalRequest([run_directory], "last", {"planner.kind": "cem"})
    compared = parse_eval([f"runs=[{run_directory},{run_directory}]", "output_dir=there"])
    assert compared == EvalRequest([run_directory] * 2, output_dir="there")


def test_data_of_an_evaluation_is_what_its_options_call_data(run_directory):
    run = f"run={run_directory}"
    words = ["data=table", "data.path=logs.csv", "data.observations=[x]", "data.actions=[u]"]
    given = {"format": "table", "path": "logs.csv", "observations": ["x"], "actions": ["u"]}
    assert parse_eval([run, *words]).evaluation == {"data": given}
    assert parse_eval([run, "data={episodes: 3}"]).evaluation == {"data": {"episodes": 3}}
    assert parse_eval([run, "evaluation.data.episodes=3"]).evaluation == {"data": {"episodes": 3}}


def test_data_to_judge_on_stands_on_the_run_s_own():
    config = build("evaluation.data.episodes=3", "evaluation.data.holdout=0")
    judged = evaluation_data_options(config)
    assert dataclasses.replace(judged, episodes=200, holdout=0.1) == config.data
    assert type(judged.holdout) is float
    other = build("evaluation.data={format: npz, path: x}", "data.cache_dir=here")
    assert evaluation_data_options(other) == NPZData(
        path="x", cache_dir="here", environment="Pendulum-v1"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "run needs a value"),
        (["run=RUN", "checkpoint=lats"], "'last'"),
        (["run=RUN", "evaluation.episods=3"], "'evaluation.episodes'"),
        (["run=RUN", "evaluation.episodes=0"], "integer, 1 or more"),
        (["run=RUN", "evaluation.planner.kind=cme"], "one of none, cem, mppi (did you mean 'cem'"),
        (["run=RUN", "evaluation.planner.num_elite=3"], "'evaluation.planner.num_elites'"),
        (["run=RUN", "training.policy.steps=3"], "training.policy.steps: no such option"),
        (["run=RUN", "data=tfsd"], "evaluation.data.format=tfsd: accepts one of gymnasium, hdf5"),
        (["run=RUN", "data=npz"], "data.path needs a value"),
        (["run=RUN", "data.episods=3"], "did you mean 'evaluation.data.episodes'"),
        (["run=RUN", "data.episodes=0"], "data.episodes=0: accepts integer, 1 or more"),
        (["run=RUN", "data.name=npz"], "data.name: no such option"),
        (["run=RUNe"], "not a run directory (did you mean"),
        (["runs=[RUN]"], "accepts 2 to 6 runs"),
        (["run=RUN", "runs=[RUN,RUN]"], "give one run to evaluate it, or runs=[A,B]"),
        (["run=RUN", "output_dir=there"], "only for comparisons"),
        (["runs=[RUN,RUNe]"], "not a run directory (did you mean"),
    ],
)
def test_mistakes_in_an_evaluation_are_told(run_directory, words, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        parse_eval([word.replace("RUN", run_directory) for word in words])


# ----------------------------------------------------------------------------------------- on disk


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


def test_an_option_missing_on_disk_takes_its_default(tmp_path):
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
        ("data: gymnasium", "data: gymnasum", "data=gymnasum: accepts one of gymnasium, hdf5"),
        (r"(?s).*", "just text", "config.yaml"),
        (r"(?s).*", "", "config.yaml"),
    ],
)
def test_a_damaged_config_is_refused_by_file_and_key(tmp_path, pattern, replacement, expected):
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


def test_a_run_from_before_an_option_can_go_on(tmp_path):
    """An older config.yaml lacks options; what they stand for now is what it was trained with."""
    save_config(build(), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    older = re.sub(r"\n  autoencoder:(\n    .*)+", "", re.sub(r"\n +ema_decay: .*", "", text))
    assert "autoencoder:" not in older and " ema_decay:" not in older
    (tmp_path / "config.yaml").write_text(older)
    assert differences(load_config(tmp_path / "config.yaml"), build()) == []


def test_by_default_pieces_are_sampled_as_long_as_they_are_trained_and_guided():
    config = build("model=trajectory_diffusion")
    assert config.model.segment_length == config.training.world_model.window
    assert config.model.guidance_scale > 0


def test_planners_are_refused_what_they_cannot_have():
    with pytest.raises(ConfigError, match="set data.environment"):
        build("evaluation.planner.kind=cem", "data.environment=null", "data=npz", "data.path=x")
    with pytest.raises(ConfigError, match="num_elites=9: at most .*num_samples=8"):
        build(*(f"evaluation.planner.{w}" for w in ("kind=mppi", "num_samples=8", "num_elites=9")))
    with pytest.raises(ConfigError, match="model=observed has no dynamics"):
        build("evaluation.planner.kind=mppi", "model=observed", "policy=td3_bc")
    build("evaluation.planner.kind=mppi", "model=oracle", "policy=td3_bc")
    build("evaluation.planner.num_elites=9", "evaluation.planner.num_samples=8")  # none plans


def test_a_changed_config_is_a_copy_and_is_checked():
    config = build()
    given = {"planner": {"kind": "mppi"}, "planner.horizon": 7, "episodes": 3}
    options = with_overrides(config, {"evaluation": given}).evaluation
    assert (options.planner.kind, options.planner.horizon, options.episodes) == ("mppi", 7, 3)
    assert config == build()
    with pytest.raises(ConfigError, match="'evaluation.planner.kind'"):
        with_overrides(config, {"evaluation": {"planner": {"knid": "cem"}}})
    with pytest.raises(ConfigError, match="num_elites=64"):
        with_overrides(config, {"evaluation": {"planner": {"kind": "cem", "num_samples": 8}}})


def test_joint_training_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="model.ema_decay=0.998.*accepts 0"):
        build("model=diffusion", "training.joint=true")
    with pytest.raises(ConfigError, match="condition_on_start=false.*logged states"):
        words = [
            "model=trajectory_diffusion",
            "model.ema_decay=0",
            "model.condition_on_start=false",
        ]
        build(*words, "training.joint=true")


def test_a_model_without_parameters_refuses_what_would_train_it():
    with pytest.raises(ConfigError, match="has no parameters, so there is nothing to train"):
        build("model=observed", "policy=none")
    with pytest.raises(ConfigError, match=r"training.joint=true: model=observed has no parameters"):
        build("model=observed", "training.joint=true")
    with pytest.raises(ConfigError, match="to average; accepts 0"):
        build("model=observed", "model.ema_decay=0.9")


def test_a_model_without_dynamics_refuses_imagined_rows():
    assert build("model=observed", "policy=td3_bc").policy.real_ratio == 1
    with pytest.raises(ConfigError, match="real_ratio=0.5: model=observed cannot imagine"):
        build("model=observed", "policy=td3_bc", "policy.real_ratio=0.5")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("policy=mobile policy.real_ratio=1", "mobile is about imagined rows, and there are none"),
        ("policy=rambo policy.real_ratio=0", "held by logged rows, and of the 256"),
        ("policy=combo policy.real_ratio=0.001", "held by logged rows"),
        (
            "policy=mopo policy.penalty=epistemic_std model.num_members=1 model.num_elites=1",
            "members of 2",
        ),
        (
            "policy=ravl policy.truncation_quantile=1 policy.truncation_measure=max_pairwise model.num_members=1 "
            "model.num_elites=1",
            "truncation_measure=max_pairwise: .* model.num_members of 2",
        ),
        ("policy=mobile model.num_elites=1", "model.num_elites=1: policy=mobile looks at how far"),
        ("policy=edac policy.num_critics=1", "policy.eta=1: .* accepted: 2 critics or more"),
    ],
)
def test_a_method_is_refused_without_what_it_works_on(words, expected):
    with pytest.raises(ConfigError, match=expected):
        build(*words.split())


def test_one_member_tells_its_own_noise():
    build("policy=mopo", "model.num_members=1", "model.num_elites=1")


def test_an_oracle_is_that_of_the_logs_and_needs_one():
    assert build("model=oracle").model.environment == "Pendulum-v1"
    with pytest.raises(ConfigError, match="model.environment needs a Gymnasium id"):
        build("model=oracle", "data=npz", "data.path=logs.npz")
