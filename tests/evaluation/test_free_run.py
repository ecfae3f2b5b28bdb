"""A free run is what a plain loop over the record gives, for models whose error is known."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from contexts import context_of
from flax import nnx

from worldmodel import models
from worldmodel.config import EvaluationOptions
from worldmodel.data.spec import ObservationSpec
from worldmodel.errors import DataError
from worldmodel.evaluation.evaluator import evaluate
from worldmodel.evaluation.report import page
from worldmodel.evaluation.results import markdown, to_json
from worldmodel.evaluation.sections import free_run as module
from worldmodel.evaluation.sections.free_run import FreeRuns
from worldmodel.models.gru import GRUOptions

OPTIONS = EvaluationOptions(
    [1], context=4, starts_per_episode=2, num_samples=1, resamples=100, free_run=True
)


def evaluated(model, dataset, options=OPTIONS):
    return FreeRuns.run(context_of(model, dataset, options)).observations["position"]


def test_the_true_dynamics_fit_the_whole_record(worlds):
    found = evaluated(worlds.Linear(), worlds.linear_dataset([30, 25, 40]))
    assert found.mean.rmse.value < 1e-5
    assert found.mean.fit.value > 99.99
    assert found.rows == [26, 21, 36]


def test_errors_are_those_of_a_plain_loop(worlds):
    """Persistence: every row after the context is predicted as the last observed one."""
    dataset = worlds.linear_dataset([30, 25, 40])
    found = evaluated(worlds.Repeat(), dataset)
    records = np.split(dataset.observations["position"], np.cumsum(dataset.lengths)[:-1])
    off = [x[3] - x[4:] for x in records]
    rmse = np.array([np.sqrt((e**2).mean(0)) for e in off])
    std = np.array([x[4:].std(0) for x in records])
    fit = [
        100 * (1 - np.linalg.norm(e, axis=0) / np.linalg.norm(x[4:] - x[4:].mean(0), axis=0))
        for e, x in zip(off, records, strict=True)
    ]
    np.testing.assert_allclose(found.rmse, rmse, rtol=1e-5)
    for d, numbers in enumerate(found.channels):
        assert numbers.rmse.value == pytest.approx(rmse[:, d].mean(), rel=1e-5)
        assert numbers.nrmse.value == pytest.approx((rmse / std)[:, d].mean(), rel=1e-5)
        assert numbers.fit.value == pytest.approx(np.mean(fit, 0)[d], rel=1e-4)
    assert found.mean.rmse.value == pytest.approx(rmse.mean(), rel=1e-5)
    assert found.mean.rmse.n == 3 and found.mean.rmse.low < found.mean.rmse.high


def test_one_record_has_no_interval(worlds):
    number = evaluated(worlds.Repeat(), worlds.linear_dataset([50])).mean.rmse
    assert number.n == 1 and np.isnan(number.low) and np.isnan(number.high)
    assert "[" not in str(number)


def test_chunks_are_seamless(worlds, monkeypatch):
    """The same record in one piece and in many, for a latent with a memory."""
    dataset = worlds.linear_dataset([40, 23])
    spec = dataset.spec()
    options = GRUOptions(units=8, latent_dim=4)
    model = nnx.jit(lambda key: models.build(options, spec, key))(jax.random.key(1))
    whole = evaluated(model, dataset)
    monkeypatch.setattr(module, "CHUNK", 5)
    np.testing.assert_allclose(evaluated(model, dataset).rmse, whole.rmse, rtol=1e-4)


def test_groups_of_records_and_sampled_rollouts_change_nothing(worlds, monkeypatch):
    dataset = worlds.linear_dataset([30, 25, 40])
    alone = evaluated(worlds.Linear(), dataset).rmse
    monkeypatch.setattr(module, "MOST_LANES", 6)
    together = evaluated(worlds.Linear(), dataset, dataclasses.replace(OPTIONS, num_samples=3)).rmse
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_mean_over_sampled_rollouts_is_evaluated(worlds):
    """Noise of independent rollouts averages out."""
    dataset = worlds.linear_dataset([60])
    noisy = [
        evaluated(
            worlds.Linear(0.3), dataset, dataclasses.replace(OPTIONS, num_samples=n)
        ).mean.rmse.value
        for n in (1, 64)
    ]
    assert noisy[1] < noisy[0] / 4


def test_a_model_that_diverges_is_infinitely_wrong(worlds):
    class Lost(worlds.Repeat):
        def step(self, state, action, key):
            return state * np.nan

    found = evaluated(Lost(), worlds.linear_dataset([30]))
    assert found.mean.rmse.value == np.inf and found.mean.fit.value == -np.inf


def test_of_many_records_some_are_evaluated(worlds):
    found = FreeRuns.run(context_of(worlds.Linear(), worlds.linear_dataset([6] * 1000), OPTIONS))
    assert len(found.observations["position"].names) == 400
    assert "on 400 of 1000 records" in found.notes()[0]


def test_records_no_longer_than_the_context_are_refused(worlds):
    with pytest.raises(DataError, match=r"longest record has 4 steps.*evaluation.context=4"):
        FreeRuns.applies(context_of(worlds.Repeat(), worlds.linear_dataset([4, 3]), OPTIONS))


def test_free_runs_are_in_every_report(worlds):
    dataset = worlds.linear_dataset([30, 25])
    results = evaluate(context_of(worlds.Repeat(), dataset, OPTIONS))
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))["free_run"]["position"]
    assert saved["context"] == 4 and len(saved["channels"]) == 2
    assert [record["rows"] for record in saved["records"]] == [26, 21]
    fit = results[FreeRuns].observations["position"].mean.fit
    assert saved["mean"]["fit"]["value"] == fit.value
    for text in (markdown(results), page(results)):
        assert str(fit).split(" [")[0].lstrip("-") in text and "Free run of position" in text
    asked = dataclasses.replace(OPTIONS, free_run=False)
    without = evaluate(context_of(worlds.Repeat(), dataset, asked))
    assert to_json(without)["free_run"] is None and "Free run" not in page(without)


def test_images_alone_are_refused(worlds) -> None:
    dataset = worlds.linear_dataset([30, 25])
    spec = dataclasses.replace(
        dataset.spec(), observations={"camera": ObservationSpec((8, 8, 3), "uint8")}
    )
    with pytest.raises(DataError, match="camera are images; accepted"):
        FreeRuns.applies(context_of(worlds.Repeat(), dataset, OPTIONS, spec))
