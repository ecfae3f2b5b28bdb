"""Runs side by side: on the same starts and seeds, with paired intervals, refused where unequal."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from contexts import context_of

from worldmodel import loading
from worldmodel.config import EvaluationOptions
from worldmodel.errors import ConfigError
from worldmodel.evaluation.compare_runs import compare_contexts, compare_runs, labels
from worldmodel.evaluation.comparison import (
    ComparedMeasure,
    Comparison,
    compare,
    compare_measures,
    comparison_page,
    comparison_tables,
    summarize,
)
from worldmodel.evaluation.report_files import json_document
from worldmodel.evaluation.returns import EvaluationEpisodes
from worldmodel.evaluation.section import MORE
from worldmodel.evaluation.sections.calibration import Calibration
from worldmodel.evaluation.sections.prediction import Prediction
from worldmodel.evaluation.sections.returns import Returns, agent_returns
from worldmodel.evaluation.sections.rewards_and_termination import RewardsAndTermination
from worldmodel.evaluation.sections.usable_horizon import UsableHorizons
from worldmodel.evaluation.statistics import Bootstrap, Measured, median
from worldmodel.runs.best import BestMetric

OPTIONS = EvaluationOptions(
    horizons=[1, 8], context=4, starts_per_episode=5, num_samples=4, resamples=200
)


def measures(worlds, **models) -> dict[str, ComparedMeasure]:
    """By their keys."""
    dataset = worlds.linear_dataset([30, 25, 40, 30], noise=0.2)
    contexts = {name: context_of(model, dataset, OPTIONS) for name, model in models.items()}
    return {found.measure.key: found for found in compare_contexts(contexts).measures}


def test_the_model_with_less_noise_is_ahead_at_every_horizon(worlds) -> None:
    models = {"rough": 0.9, "fine": 0.05, "middling": 0.4}
    found = measures(worlds, **{name: worlds.Linear(noise) for name, noise in models.items()})
    errors = found["prediction.position"]
    for at in errors.rows.values():
        assert (at.lead.best, at.lead.runner_up) == ("fine", "middling") and at.lead.is_clear
        by = 1 - at.runs["fine"].value / at.runs["middling"].value
        assert (
            at.lead.margin.value == pytest.approx(by)
            and at.lead.margin.low <= by <= at.lead.margin.high
        )
    assert summarize(Comparison([*models], "", None, 0.95, [errors])) == [
        "Prediction of position: fine is ahead at 1 and 8 steps."
    ]


def test_a_comparison_holds_the_numbers_of_each_models_own_evaluation(worlds) -> None:
    dataset, noise = worlds.linear_dataset([30, 25, 40, 30], noise=0.2), {"a": 0.1, "b": 0.3}
    found = measures(worlds, **{name: worlds.Linear(x) for name, x in noise.items()})
    for run, x in noise.items():
        context = context_of(worlds.Linear(x), dataset, OPTIONS)
        alone = Prediction.run(context).observations["position"]
        calibrations = Calibration.run(context).observations["position"]
        rewards = RewardsAndTermination.run(context).rewards
        usable = UsableHorizons.run(context).observations["position"]
        for h in OPTIONS.horizons:
            calibration, expected = calibrations[h], rewards[h]
            for place, number in {
                "prediction.position": alone.horizons[h].error,
                "crps.position": calibration.crps,
                "spread_skill_ratio.position": calibration.spread_skill_ratio,
                "reward": expected.error,
                "return": expected.return_error,
            }.items():
                ours = found[place].rows[str(h)].runs[run]
                assert (ours.value, ours.n) == (pytest.approx(number.value), number.n), place
        assert found["usable_horizon.position"].rows["position"].runs[run] == usable.percentiles[50]


def test_what_is_better_when_more_is_reported_by_the_difference() -> None:
    values = {"a": np.arange(40.0), "b": np.arange(40.0) + 2, "c": np.full(40, np.nan)}
    given = {run: Measured(median(v), np.arange(40), "median") for run, v in values.items()}
    found = compare(given, Bootstrap(100), MORE)
    assert (found.lead.best, found.lead.runner_up) == ("b", "a")  # what is not a number is last
    assert found.lead.margin.low == found.lead.margin.value == found.lead.margin.high == 2
    assert compare({"a": given["a"]}, Bootstrap(100)).lead is None


def test_two_equal_runs_have_no_lead(worlds) -> None:
    found = measures(worlds, one=worlds.Linear(0.2), other=worlds.Linear(0.2))
    for place, measure in found.items():
        for at in measure.rows.values():
            assert at.runs["one"] == at.runs["other"], place
            if at.lead is not None:
                assert at.lead.margin.low == at.lead.margin.value == at.lead.margin.high == 0
                assert not at.lead.is_clear
    whole = Comparison(["one", "other"], "", None, 0.95, [*found.values()])
    ((_, *cells), _) = comparison_tables(whole)[0].rows
    assert cells[0] == cells[1] and cells[3] == "not clear"


def test_returns_are_compared_episode_by_episode() -> None:
    """The episodes differ by far more than the runs, and the difference is known nevertheless."""
    generator = np.random.default_rng(0)
    episodes = generator.normal(0, 100, 40)
    ours = episodes + 3 + generator.normal(0, 1, 40)

    def returns(**agents: np.ndarray) -> Returns:
        one, bootstrap = np.ones(40, bool), Bootstrap(500)

        def played(earned: np.ndarray) -> EvaluationEpisodes:
            return EvaluationEpisodes(np.arange(40), earned[:, None], one * 1, one, ~one, None)

        found = {
            name: agent_returns([played(earned) for earned in of_seeds], bootstrap, None)
            for name, of_seeds in agents.items()
        }
        return Returns(found, "Pendulum-v1")

    def of(theirs: np.ndarray) -> ComparedMeasure:
        ours = returns(policy=episodes[None], planner=episodes[None])
        given = {"a": ours.measures(), "b": returns(policy=theirs).measures()}
        (measure,) = compare_measures(given, Bootstrap(500))
        assert [*measure.rows] == ["policy"]  # one run alone has a planner
        return measure

    found = of(ours[None]).rows["policy"]
    assert found.runs["a"].high > found.runs["b"].low  # told apart by no interval of theirs
    assert found.lead.best == "b" and 2 < found.lead.margin.low < found.lead.margin.high < 4
    (said,) = summarize(Comparison(["a", "b"], "", None, 0.95, [of(ours[None])]))
    assert said.startswith("Returns: b's policy returns more than a's") and "40 episodes" in said
    of_seeds = of(np.stack([ours, episodes])).rows["policy"]
    assert of_seeds.lead.margin.value == pytest.approx(found.lead.margin.value / 2)


@pytest.fixture
def two_runs(small_run: Path, tmp_path: Path) -> list[Path]:
    runs = [shutil.copytree(small_run, tmp_path / name) for name in ("one", "other")]
    for run in runs:
        change(run / "config.yaml", name=run.name)
    return runs


def change(config: Path, **values: object) -> None:
    saved = yaml.safe_load(config.read_text()) | values
    config.write_text(yaml.safe_dump(saved))


def compared(runs: list[Path], given: dict, checkpoint: str = "best") -> dict:
    """comparison.json."""
    assert compare_runs(list(map(str, runs)), checkpoint, given, None) == 0
    folder = runs[0].parent / ".compared" / "-".join(run.name for run in runs)
    return json.loads((folder / "comparison.json").read_text())


def test_a_comparison_of_runs_is_written_whole(two_runs: list[Path], capsys) -> None:
    given = {"horizons": [1, 2, 900], "num_samples": 4, "episodes": 3, "resamples": 100}
    given["policy_ranking"] = {"rollouts_per_policy": 0}
    found, folder = compared(two_runs, given, "last"), two_runs[0].parent / ".compared/one-other"
    assert found["runs"] == ["one", "other"]
    for at in found["prediction"]["observation"].values():
        assert at["runs"]["one"] == at["runs"]["other"] and at["lead"]["margin"]["value"] == 0
    assert found["returns"]["policy"]["lead"]["margin"]["n"] == 3
    text = (folder / "comparison.md").read_text()
    assert "none is clearly ahead at 1 and 2 steps" in text and "the same 3 episodes" in text
    page = (folder / "comparison.html").read_text()
    for report in (text, page):
        assert "Brackets hold the 95 % interval" in report
        assert "no held-out episode is long enough: 900" in report
    kinds = ["prediction", "usable_horizon", "reward", "return", "returns"]
    assert {*kinds} <= found.keys()
    assert page.count("<svg") == len(kinds) and "http" not in page
    assert str(folder / "comparison.html") in capsys.readouterr().out


def test_the_best_checkpoints_never_stand_without_the_last(two_runs: list[Path]) -> None:
    """By a metric whose better value is that of the earlier of the two checkpoints."""
    for run in two_runs:
        values = BestMetric("loss/actor", "max").values(run / "checkpoints" / "policy")
        assert sorted(values) == [30, 60]
        training = yaml.safe_load((run / "config.yaml").read_text())["training"]
        mode = "max" if values[30] > values[60] else "min"
        training["policy"] |= {"best_metric": "loss/actor", "best_mode": mode}
        change(run / "config.yaml", training=training)
    few = {"horizons": [1], "num_samples": 4, "episodes": 2, "resamples": 100}
    few["policy_ranking"] = {"rollouts_per_policy": 0}
    results = loading.load(two_runs[0], "best").evaluate(**few)
    assert (results.provenance.step, results.last.provenance.step) == (30, 60)
    saved = json.loads((two_runs[0] / "evaluation" / "results.json").read_text())
    assert saved["last"]["returns"].keys() == saved["returns"].keys()
    found = compared(two_runs, few)
    best, last = (x["returns"]["policy"]["runs"]["one"]["value"] for x in (found, found["last"]))
    assert best == saved["returns"]["policy"]["value"]
    assert last == saved["last"]["returns"]["policy"]["value"]
    for run in two_runs:
        training = yaml.safe_load((run / "config.yaml").read_text())["training"]
        training["policy"]["best_mode"] = {"max": "min", "min": "max"}[mode]
        change(run / "config.yaml", training=training)
    again = compared(two_runs, few)
    assert again["last"] is None and any("also its last" in note for note in again["notes"])
    assert again["returns"] == found["last"]["returns"]


def test_runs_of_the_same_name_are_called_by_their_paths() -> None:
    assert labels(["a/x", "b/y"], ["x", "y"]) == ["x", "y"]
    assert labels(["a/x", "b/x"], ["x", "x"]) == ["a/x", "b/x"]
    with pytest.raises(ConfigError, match="given twice"):
        labels(["a/x", "a/../a/x"], ["x", "x"])


@pytest.mark.parametrize("what", ["dataset", "holdout"])
def test_runs_that_cannot_be_compared_are_refused(two_runs: list[Path], what: str) -> None:
    other = two_runs[1]
    if what == "dataset":
        spec = json.loads((other / "spec.json").read_text())
        (other / "spec.json").write_text(json.dumps(spec | {"fingerprint": "0" * 64}))
        words = "another dataset than"
    else:
        data = yaml.safe_load((other / "config.yaml").read_text())["data"]
        change(other / "config.yaml", data=data | {"holdout": 0.5})
        words = "another data.holdout than"
    with pytest.raises(ConfigError, match=words):
        compare_runs(list(map(str, two_runs)), "last", {}, None)
    assert not (other.parent / ".compared").exists()


def test_a_page_of_models_without_a_policy(worlds) -> None:
    found = measures(worlds, a=worlds.Linear(0.5), b=worlds.Repeat())
    assert "crps.position" not in found  # only one of them samples
    page = comparison_page(Comparison(["a", "b"], "", None, 0.95, [*found.values()]))
    assert page.count("<svg") == len(found) == 4 and "b is ahead" not in page
    assert page.count('class="band run-0"') == 3  # but for the usable horizon


def test_a_dataset_without_rewards_leaves_the_reward_out(worlds) -> None:
    """Another dataset may lack what the models learned to predict."""
    dataset = worlds.linear_dataset([30, 25, 40, 30], noise=0.2)
    spec, bare = dataset.spec(), replace(dataset, rewards=None)
    models = {"a": worlds.Linear(0.5), "b": worlds.Repeat()}
    contexts = {name: context_of(model, bare, OPTIONS, spec) for name, model in models.items()}
    found = compare_contexts(contexts)
    assert [compared.measure.key for compared in found.measures] == [
        "prediction.position",
        "usable_horizon.position",
    ]
    assert "The dataset has no rewards" in " ".join(found.notes)


def test_what_is_not_finite_is_not_drawn(worlds) -> None:
    class Diverged(worlds.Linear):
        def step(self, state, action, key):
            return state * np.nan

    dataset = worlds.linear_dataset([30, 25, 40, 30])
    options = replace(OPTIONS, horizons=[8])
    models = {"a": Diverged(), "b": worlds.Repeat()}
    contexts = {name: context_of(model, dataset, options) for name, model in models.items()}
    page = comparison_page(compare_contexts(contexts))
    drawn = re.findall(r' (?:d|points|cx|cy)="([^"]*)"', page)
    assert drawn and not any("nan" in path or "inf" in path for path in drawn)


def test_the_last_checkpoints_stand_beside_the_best(worlds) -> None:
    found = measures(worlds, a=worlds.Linear(0.5), b=worlds.Linear(0.05))
    last = Comparison(["a", "b"], "", None, 0.95, [found["prediction.position"]])
    best = Comparison(["a", "b"], "", None, 0.95, [found["crps.position"]], last=last)
    assert [line.partition(":")[0] for line in summarize(best)] == [
        "CRPS of sampled rollouts of position",
        "Last checkpoints",
    ]
    titles = [table.title for table in comparison_tables(best)]
    assert len(titles) == 2 and titles[1].endswith(", last checkpoints")
    assert (
        json_document(best.numbers())["last"]["prediction"]["position"]["8"]["lead"]["best"] == "b"
    )
    assert "last checkpoints" in comparison_page(best)


def test_a_run_may_have_the_name_of_the_baseline(worlds) -> None:
    found = measures(worlds, persistence=worlds.Repeat(3), other=worlds.Repeat(3))
    table = comparison_tables(
        Comparison(["persistence", "other"], "", None, 0.95, [found["prediction.position"]])
    )[0]
    assert {"persistence", "persistence (baseline)"} <= set(table.header)
    assert table.narrow().header[1:3] == ["persistence", "other"]
