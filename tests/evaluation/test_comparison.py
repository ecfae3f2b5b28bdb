"""Runs side by side: on the same starts and seeds, with paired intervals, refused where unequal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from worldmodel.config import EvaluationOptions
from worldmodel.errors import ConfigError
from worldmodel.evaluation.comparison import (
    Comparison,
    compare_predictions,
    compare_returns,
    comparison_sheets,
    verdict,
)
from worldmodel.evaluation.comparison_page import comparison_page
from worldmodel.evaluation.side_by_side import compare_runs, labels
from worldmodel.evaluation.statistics import Bootstrap

OPTIONS = EvaluationOptions(horizons=[1, 8], context=4, starts=5, samples=3, resamples=200)


def compared(worlds, **models):
    logs = worlds.linear_logs([30, 25, 40, 30])
    given = {name: (model, logs.spec()) for name, model in models.items()}
    return compare_predictions(given, logs, OPTIONS)["position"]


def test_the_model_with_less_noise_is_ahead_at_every_horizon(worlds) -> None:
    models = {"rough": 0.5, "fine": 0.05, "middling": 0.2}
    found = compared(worlds, **{name: worlds.Linear(noise) for name, noise in models.items()})
    for at in found.horizons.values():
        assert (at.lead.best, at.lead.second) == ("fine", "middling") and at.lead.is_clear
        by = 1 - at.numbers["fine"].value / at.numbers["middling"].value
        assert at.lead.by.value == pytest.approx(by) and at.lead.by.low <= by <= at.lead.by.high
    assert verdict(Comparison([*models], "", None, 0.95, {"position": found})) == [
        "Prediction of position: fine is ahead at 1 and 8 steps."
    ]


def test_two_that_are_the_same_are_not_told_apart(worlds) -> None:
    found = compared(worlds, one=worlds.Linear(0.2), other=worlds.Linear(0.2))
    for at in found.horizons.values():
        assert at.lead.by.low == at.lead.by.value == at.lead.by.high == 0
        assert not at.lead.is_clear
    ((_, *cells), _) = comparison_sheets(
        Comparison(["one", "other"], "", None, 0.95, {"position": found})
    )[0].rows
    assert cells[0] == cells[1] and cells[2] == "not clear"


def test_returns_are_compared_episode_by_episode() -> None:
    """The episodes differ by far more than the runs, and the difference is known nevertheless."""
    generator = np.random.default_rng(0)
    episodes = generator.normal(0, 100, 40)
    ours = episodes + 3 + generator.normal(0, 1, 40)
    found = compare_returns({"a": episodes[None], "b": ours[None]}, Bootstrap(500))
    assert found.numbers["a"].high > found.numbers["b"].low  # told apart by no interval of theirs
    assert found.lead.best == "b" and 2 < found.lead.by.low < found.lead.by.high < 4
    of_seeds = compare_returns({"a": episodes[None], "b": np.stack([ours, episodes])}, Bootstrap())
    assert of_seeds.lead.by.value == pytest.approx(found.lead.by.value / 2)


@pytest.fixture
def two_runs(smoke_run: Path, tmp_path: Path) -> list[Path]:
    runs = [shutil.copytree(smoke_run, tmp_path / name) for name in ("one", "other")]
    for run in runs:
        change(run / "config.yaml", name=run.name)
    return runs


def change(config: Path, **values: object) -> None:
    saved = yaml.safe_load(config.read_text()) | values
    config.write_text(yaml.safe_dump(saved))


def test_a_comparison_of_runs_is_written_whole(two_runs: list[Path], capsys) -> None:
    given = {"horizons": [1, 2], "samples": 2, "episodes": 3, "resamples": 100}
    assert compare_runs(list(map(str, two_runs)), "last", given, None) == 0
    folder = two_runs[0].parent / ".compared" / "one-other"
    found = json.loads((folder / "comparison.json").read_text())
    assert found["runs"] == ["one", "other"]
    for at in found["prediction"]["observation"].values():
        assert at["runs"]["one"] == at["runs"]["other"] and at["lead"]["by"]["value"] == 0
    assert found["returns"]["policy"]["lead"]["by"]["n"] == 3
    text = (folder / "comparison.md").read_text()
    assert "none is clearly ahead at 1 and 2 steps" in text and "the same 3 episodes" in text
    page = (folder / "comparison.html").read_text()
    assert page.count("<svg") == 3 and "http" not in page
    assert str(folder / "comparison.html") in capsys.readouterr().out


def test_runs_of_the_same_name_are_called_by_their_paths() -> None:
    assert labels(["a/x", "b/y"], ["x", "y"]) == ["x", "y"]
    assert labels(["a/x", "b/x"], ["x", "x"]) == ["a/x", "b/x"]
    with pytest.raises(ConfigError, match="given twice"):
        labels(["a/x", "a/../a/x"], ["x", "x"])


@pytest.mark.parametrize("what", ["logs", "holdout"])
def test_runs_that_cannot_be_compared_are_refused(two_runs: list[Path], what: str) -> None:
    other = two_runs[1]
    if what == "logs":
        spec = json.loads((other / "spec.json").read_text())
        (other / "spec.json").write_text(json.dumps(spec | {"fingerprint": "0" * 64}))
        words = "other logs than"
    else:
        data = yaml.safe_load((other / "config.yaml").read_text())["data"]
        change(other / "config.yaml", data=data | {"holdout": 0.5})
        words = "another data.holdout than"
    with pytest.raises(ConfigError, match=words):
        compare_runs(list(map(str, two_runs)), "last", {}, None)
    assert not (other.parent / ".compared").exists()


def test_a_page_of_models_without_a_policy(worlds) -> None:
    keys = {"position": compared(worlds, a=worlds.Linear(0.5), b=worlds.Repeat())}
    page = comparison_page(Comparison(["a", "b"], "", None, 0.95, keys))
    assert page.count("<svg") == 2 and "b is ahead" not in page
