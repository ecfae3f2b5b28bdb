"""The spectrum of a linear latent, in closed form and as it is drawn."""

import json
import re

import jax
import numpy as np
import pytest
from contexts import context_of

from worldmodel import models
from worldmodel.config import EvaluationOptions
from worldmodel.evaluation.evaluator import evaluate
from worldmodel.evaluation.report import page
from worldmodel.evaluation.results import Results, markdown, to_csv, to_json
from worldmodel.evaluation.sections.spectrum import Spectrum
from worldmodel.models.koopman import KoopmanOptions


def drawn(html):
    """The unit disc's circle (n, 2) and dots (N, 2), in pixels."""
    svg = re.search(r'<svg role="img" aria-label="Eigenvalues.*?</svg>', html).group()
    circle = re.search(r'class="line dataset" d="M([^"]*)"', svg).group(1)
    dots = re.findall(r'<circle [^>]*cx="([^"]*)" cy="([^"]*)"', svg)
    return np.array([p.split(",") for p in circle.split("L")], float), np.array(dots, float)


def test_koopman_shows_its_spectrum(worlds):
    """The fixed one in closed form: exp(-0.2 / m) turned by j pi / m, j = 0 ... m - 1."""
    dataset, modes = worlds.linear_dataset([30, 25, 40, 22]), 8
    spec = dataset.spec()
    options = KoopmanOptions(units=8, latent_dim=2 * modes, spectrum="fixed")
    model = models.build(options, spec, jax.random.key(0))
    evaluation = EvaluationOptions([1, 5], 4, 3, 2, resamples=10)
    context = context_of(model, dataset, evaluation, spec)
    assert Spectrum.applies(context)
    results = Results({"spectrum": Spectrum.run(context)}, 0.95)
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))["spectrum"]
    columns = {name: [row[name] for row in saved] for name in saved[0]}
    np.testing.assert_allclose(columns["magnitude"], np.exp(-0.2 / modes), rtol=1e-5)
    np.testing.assert_allclose(columns["angle"], np.pi * np.arange(modes) / modes, rtol=1e-5)
    np.testing.assert_allclose(columns["half_life_steps"], modes * np.log(2) / 0.2, rtol=1e-4)
    assert columns["period_steps"][0] is None  # it does not turn
    expected = 2 * modes / np.arange(1, modes)
    np.testing.assert_allclose(columns["period_steps"][1:], expected, rtol=1e-5)
    html = page(results)
    sentence = (
        "8 of 8 modes keep more than half after 10 steps, 0 after 100. "
        "The slowest halves in 27.7 steps; the fastest turns once in 2.29 steps."
    )
    assert sentence in markdown(results) and sentence in html
    assert "<h2>Latent spectrum</h2>" in html and "spectrum" not in to_csv(results)  # no estimates
    assert len(drawn(html)[1]) == 2 * modes - 1  # the first one is real: its own conjugate


def test_a_model_without_a_linear_latent_shows_no_spectrum(worlds):
    options = EvaluationOptions([1, 5], 4, 3, 2, resamples=10)
    results = evaluate(context_of(worlds.Linear(), worlds.linear_dataset([30, 25]), options))
    assert "spectrum" not in results.sections and to_json(results)["spectrum"] is None
    for text in (page(results), markdown(results)):
        assert "spectrum" not in text and "Eigenvalues" not in text


def test_half_lives_and_periods_in_closed_form():
    """What does not decay or turn has neither; a size that rounding took below 1 does not decay."""
    turned = 0.9 * np.exp(1j * np.pi / 3)
    values = np.array([0.5, 1j, turned, -(0.5 ** (1 / 50)), 1 - 6e-8, 0, 1.1])
    rows = Spectrum(values.real, values.imag).modes()
    half_lives = [row["half_life_steps"] for row in rows]
    periods = [row["period_steps"] for row in rows]
    slow = np.log(0.5) / np.log(0.9)
    assert half_lives == pytest.approx([1, None, slow, 50, None, 0, None])
    assert periods == pytest.approx([None, 4, 6, 2, None, None, None])
    assert str(Spectrum(np.ones(2), np.zeros(2))) == (
        "2 of 2 modes keep more than half after 10 steps, 2 after 100. "
        "The slowest does not decay; none turns."
    )


def test_the_disc_is_round_and_eigenvalues_lie_where_they_should():
    values = np.linspace(0, 1, 40) * np.exp(1j * np.linspace(0.1, 3, 40))
    spectrum = Spectrum(values.real, values.imag)
    circle, dots = drawn(page(Results({"spectrum": spectrum}, 0.95)))
    centre, radius = (circle.min(0) + circle.max(0)) / 2, np.ptp(circle, 0) / 2
    assert radius[0] == pytest.approx(radius[1], abs=0.1)  # pixels
    right, down = ((dots - centre) / radius).T
    assert np.hypot(right, down).max() <= 1.002
    expected = np.concatenate([values, values[1:].conj()])  # 0 is its own conjugate
    np.testing.assert_allclose(right - 1j * down, expected, atol=2e-3)
