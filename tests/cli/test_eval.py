"""The command line of eval.py: runs, checkpoint, and data to evaluate on."""

from __future__ import annotations

import dataclasses
import re

import pytest
from composing import build

from worldmodel.cli.eval import EvalRequest, parse_eval
from worldmodel.config.evaluation_data import evaluation_data_options
from worldmodel.config.io import save_config
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import ConfigError


@pytest.fixture
def run_directory(tmp_path) -> str:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    save_config(build(), run / "config.yaml")
    return str(run)


def test_only_options_that_were_given_are_returned(run_directory):
    words = [f"run={run_directory}", "evaluation.episodes=10", "evaluation.horizons=[1,2]"]
    given = {"episodes": 10, "horizons": [1, 2]}
    assert parse_eval(words) == EvalRequest([run_directory], "last", given)
    assert parse_eval([words[0], "checkpoint=2000"]) == EvalRequest([run_directory], "2000")
    planned = parse_eval([words[0], "evaluation.planner.kind=cem"])
    assert planned == EvalRequest([run_directory], "last", {"planner.kind": "cem"})
    compared = parse_eval([f"runs=[{run_directory},{run_directory}]", "output_dir=there"])
    assert compared == EvalRequest([run_directory] * 2, output_dir="there")


def test_data_options_are_short_for_those_of_evaluation_data(run_directory):
    run = f"run={run_directory}"
    words = ["data=table", "data.path=logs.csv", "data.observations=[x]", "data.actions=[u]"]
    given = {"format": "table", "path": "logs.csv", "observations": ["x"], "actions": ["u"]}
    assert parse_eval([run, *words]).evaluation == {"data": given}
    assert parse_eval([run, "data={episodes: 3}"]).evaluation == {"data": {"episodes": 3}}
    assert parse_eval([run, "evaluation.data.episodes=3"]).evaluation == {"data": {"episodes": 3}}


def test_evaluation_data_starts_from_the_data_options_of_the_run():
    config = build("evaluation.data.episodes=3", "evaluation.data.holdout=0")
    options = evaluation_data_options(config)
    assert dataclasses.replace(options, episodes=200, holdout=0.1) == config.data
    assert type(options.holdout) is float
    words = ("data.cache_dir=here", "data.image_size=[64,48]", "data.image_method=nearest")
    other = build("evaluation.data={format: npz, path: x}", *words)
    inherited = {"image_size": [64, 48], "image_method": "nearest", "environment": "Pendulum-v1"}
    assert evaluation_data_options(other) == NPZData(path="x", cache_dir="here", **inherited)


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
        (
            ["run=RUN", "data=tfsd"],
            "evaluation.data.format=tfsd: accepts one of dreamer, gymnasium",
        ),
        (["run=RUN", "data=npz"], "data.path needs a value"),
        (["run=RUN", "data.episods=3"], "did you mean 'evaluation.data.episodes'"),
        (["run=RUN", "data.episodes=0"], "data.episodes=0: accepts integer, 1 or more"),
        (["run=RUN", "data.name=npz"], "data.name: no such option"),
        (["run=RUNe"], "not a run directory (did you mean"),
        (["run=" + 3000 * "x"], "not a run directory"),
        (["runs=[RUN]"], "accepts 2 to 6 runs"),
        (["run=RUN", "runs=[RUN,RUN]"], "give one run to evaluate it, or runs=[A,B]"),
        (["run=RUN", "output_dir=there"], "only for comparisons"),
        (["runs=[RUN,RUNe]"], "not a run directory (did you mean"),
    ],
)
def test_invalid_options_of_an_evaluation_are_reported(run_directory, words, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        parse_eval([word.replace("RUN", run_directory) for word in words])
