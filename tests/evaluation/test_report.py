"""What is written: whole, self-contained, the same numbers everywhere."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from worldmodel import models
from worldmodel.config import EvaluationOptions
from worldmodel.config.references import resolve_reference
from worldmodel.data import build_card
from worldmodel.evaluation.evaluator import evaluate, render, write
from worldmodel.evaluation.policy_ranking import PolicyRanking
from worldmodel.evaluation.prediction import (
    Curve,
    ExampleRollout,
    HorizonMetrics,
    ObservationPrediction,
)
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn, rank_agreement
from worldmodel.evaluation.report import page
from worldmodel.evaluation.results import (
    AgentReturns,
    Prediction,
    Provenance,
    Results,
    Scale,
    to_json,
)
from worldmodel.evaluation.spectrum import Spectrum
from worldmodel.evaluation.statistics import Bootstrap, Estimate, wilson
from worldmodel.evaluation.summary import _by_horizon, summarize
from worldmodel.evaluation.svg import ticks
from worldmodel.evaluation.tables import markdown
from worldmodel.models.koopman import KoopmanOptions

VOID = {"meta", "img", "path", "polygon", "circle"}
KINDS = {"value", "low", "high", "n", "sample_unit", "method"}


class Checker(HTMLParser):
    """Every tag is closed in order; notes what a browser would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]
        self.loads += [tag] if tag in ("script", "link", "iframe") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.loads += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def results(worlds):
    logs = worlds.linear_logs([30, 25, 40, 22])
    options = EvaluationOptions([1, 5], 4, 3, 2, resamples=100)
    model, spec = worlds.Linear(0.2), logs.spec()
    source = Provenance("a <run>", "world_model", 40, command="python eval.py run=runs/a")
    found = evaluate(model, None, spec, logs, logs, "Pendulum-v1", options, source)
    earned = np.array([-150.0, -900.0, -1234.0])
    returns = {
        "policy": AgentReturns(Bootstrap(100).mean(earned, "episodes"), earned)
    } | found.returns
    return Results(found.prediction, returns, 0.95, found.provenance)


def checked(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_files_are_written_and_hold_the_same_numbers(results, worlds, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"stage": "world_model", "step": s, "time": s, "loss/total": 1 / s} for s in (1, 2, 3)]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"stage": "wor')
    write(results, tmp_path, metrics, build_card(worlds.linear_logs([30, 25])))
    saved = json.loads((tmp_path / "results.json").read_text())
    html = (tmp_path / "report.html").read_text()
    markdown = (tmp_path / "results.md").read_text()
    for horizon in ("1", "5"):
        numbers = saved["prediction"]["position"][horizon]
        assert {"error", "persistence", "skill"} <= numbers.keys()
        each = numbers.pop("dimensions")
        assert len(each) == 2
        assert all(number.keys() - {"episodes"} == KINDS for number in [*numbers.values(), *each])
        error = Estimate.from_json(numbers["error"]).brief
        assert error in markdown
        assert f"<b>{error.split(' [')[0]}</b>" in html
    assert saved["returns"]["dataset"]["n"] == 4
    assert saved["episodes"]["policy"] == [-150, -900, -1234]
    assert len(saved["held_out_sha256"]) == 64
    assert "loss/total" in html and "a linear world" in html


def test_success_and_normalised_scores_stand_beside_the_return_with_their_scale(results):
    reference = resolve_reference(EvaluationOptions(reference="d4rl/hopper"))
    earned = dataclasses.replace(
        results.returns["policy"],
        success=wilson(2, 3),
        normalized=Estimate(47.1, 40.0, 50.0, 3, "", "episodes"),
    )
    scaled = dataclasses.replace(
        results,
        returns=results.returns | {"policy": earned},
        scale=Scale(reference, reference.note(200)),
    )
    saved, text = to_json(scaled), markdown(scaled)
    assert saved["success"]["policy"]["value"] == 2 / 3 and "dataset" not in saved["success"]
    assert saved["normalized"]["policy"]["value"] == 47.1
    assert saved["reference"]["name"] == "d4rl/hopper" and saved["reference"]["source"]
    assert "| agent | return | success | normalised | episodes |" in text
    for told in (text, checked(page(scaled, [], None)).text):
        assert "not comparable with published ones" in told
    assert to_json(results)["normalized"] == {} and to_json(results)["reference"] is None


def test_page_is_whole_and_loads_nothing(results):
    html = page(results, [], None)
    checker = checked(html)
    assert all(load.startswith("data:image/png;base64,") for load in checker.loads)
    assert not re.search(r"url\(|@import|https?://", html)
    assert len(html) < 200_000
    assert "a <run>" in checker.text
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_terminal_tables_fit_100_columns(results):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert results.prediction.observations["position"].horizons[1].skill.brief in text


def test_headline_says_what_the_intervals_allow():
    def number(value, low, high):
        return Estimate(value, low, high, 50, "")

    def said(skill, policy):
        horizons = {
            1: HorizonMetrics(number(0.2, 0.1, 0.3), number(1, 1, 1), skill, None),
        }
        judged = ObservationPrediction("", horizons, None, [])
        returns = {
            "policy": AgentReturns(policy, np.zeros(1)),
            "dataset": AgentReturns(number(0, -1, 1), None),
        }
        return " ".join(
            summarize(Results(Prediction({"x": judged}, []), returns, 0.95, Provenance()))
        )

    good = said(number(0.8, 0.7, 0.9), number(5, 4, 6))
    assert "is better than persistence at 1 step" in good and "above the dataset's mean" in good
    even = said(number(0.1, -0.1, 0.3), number(1, 0, 2))
    assert "no better than persistence" in even and "not clearly different from the dataset" in even
    bad = said(number(-0.2, -0.3, -0.1), number(-5, -6, -4))
    assert "worse than persistence" in bad and "below the dataset's mean" in bad


def test_images_become_strips_and_move():
    generator = np.random.default_rng(0)
    real = generator.integers(0, 255, (6, 16, 16, 3), np.uint8)
    example = ExampleRollout("typical", 0, 3, 2, real, generator.uniform(0, 255, (2, 4, 16, 16, 3)))
    number = Estimate(0.1, 0.05, 0.2, 3, "")
    curve = Curve(np.ones((3, 4)), np.ones((3, 4)), None, np.ones(4))
    horizons = {4: HorizonMetrics(number, number, number, None)}
    judged = ObservationPrediction("share of the pixel range", horizons, curve, [example])
    results = Results(Prediction({"image": judged}, []), {}, 0.95, Provenance())
    video, *stills = checked(page(results)).loads
    assert len(stills) == 2 * 4
    kind, data = video.split(",")
    film = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/gif;base64" and film.n_frames == 4  # the steps that were imagined
    film.seek(3)
    left = np.asarray(film.convert("RGB"), int)[:, :16]
    assert np.abs(left - real[5]).mean() < np.abs(left - real[4]).mean() / 4
    assert "climatology" not in to_json(results)["prediction"]["image"]["4"]


def drawn(html):
    """The unit disc's circle (n, 2) and dots (N, 2), in pixels."""
    svg = re.search(r'<svg role="img" aria-label="Eigenvalues.*?</svg>', html).group()
    circle = re.search(r'class="line logs" d="M([^"]*)"', svg).group(1)
    dots = re.findall(r'<circle [^>]*cx="([^"]*)" cy="([^"]*)"', svg)
    return np.array([p.split(",") for p in circle.split("L")], float), np.array(dots, float)


def test_koopman_shows_its_spectrum(worlds):
    """The fixed one in closed form: exp(-0.2 / m) turned by j pi / m, j = 0 ... m - 1."""
    logs, modes = worlds.linear_logs([30, 25, 40, 22]), 8
    spec = logs.spec()
    options = KoopmanOptions(units=8, latent_dim=2 * modes, spectrum="fixed")
    model = models.build(options, spec, jax.random.key(0))
    judging = EvaluationOptions([1, 5], 4, 3, 2, resamples=10)
    results = evaluate(model, None, spec, logs, logs, None, judging)
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
    assert sentence in markdown(results) and sentence in checked(html).text
    assert "<h2>Latent spectrum</h2>" in html
    assert len(drawn(html)[1]) == 2 * modes - 1  # the first one is real: its own conjugate


def test_a_model_without_a_linear_latent_shows_no_spectrum(results):
    assert results.spectrum is None and to_json(results)["spectrum"] is None
    for text in (page(results), markdown(results)):
        assert "spectrum" not in text and "Eigenvalues" not in text


def test_half_lives_and_periods_in_closed_form():
    """What does not decay or turn has neither; a size that rounding took below 1 does not decay."""
    turned = 0.9 * np.exp(1j * np.pi / 3)
    values = np.array([0.5, 1j, turned, -(0.5 ** (1 / 50)), 1 - 6e-8, 0, 1.1])
    rows = Spectrum(values.real, values.imag).to_json()
    half_lives = [row["half_life_steps"] for row in rows]
    periods = [row["period_steps"] for row in rows]
    slow = np.log(0.5) / np.log(0.9)
    assert half_lives == pytest.approx([1, None, slow, 50, None, 0, None])
    assert periods == pytest.approx([None, 4, 6, 2, None, None, None])
    assert str(Spectrum(np.ones(2), np.zeros(2))) == (
        "2 of 2 modes keep more than half after 10 steps, 2 after 100. "
        "The slowest does not decay; none turns."
    )


def test_the_disc_is_round_and_eigenvalues_lie_where_they_should(results):
    values = np.linspace(0, 1, 40) * np.exp(1j * np.linspace(0.1, 3, 40))
    spectrum = Spectrum(values.real, values.imag)
    circle, dots = drawn(page(dataclasses.replace(results, spectrum=spectrum)))
    centre, radius = (circle.min(0) + circle.max(0)) / 2, np.ptp(circle, 0) / 2
    assert radius[0] == pytest.approx(radius[1], abs=0.1)  # pixels
    right, down = ((dots - centre) / radius).T
    assert np.hypot(right, down).max() <= 1.002
    expected = np.concatenate([values, values[1:].conj()])  # 0 is its own conjugate
    np.testing.assert_allclose(right - 1j * down, expected, atol=2e-3)


def test_ticks_are_round_and_inside():
    assert ticks(0, 1, 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert ticks(-1600, -140, 4) == pytest.approx([-1500, -1000, -500])
    assert all(-0.013 <= t <= 0.002 for t in ticks(-0.013, 0.002, 5))


def test_every_new_number_is_written_with_n_and_interval(results):
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))

    def numbers(tree):
        if isinstance(tree, dict) and tree.keys() >= KINDS:
            yield tree
        elif isinstance(tree, (dict, list)):
            for part in tree.values() if isinstance(tree, dict) else tree:
                yield from numbers(part)

    assert saved["usable_horizon"]["position"].keys() == {
        "p5",
        "p50",
        "p95",
        "censored",
        "max_horizon",
    }
    assert saved["reward"].keys() == {"1", "5"} and saved["terminal"] == {}
    found = [
        number
        for part in ("prediction", "usable_horizon", "reward", "calibration")
        for number in numbers(saved[part])
    ]
    assert len(found) > 30
    assert all(number["n"] > 0 and number["method"] for number in found)
    assert any("terminated" in note for note in saved["notes"])
    assert any("single training seed" in note for note in saved["notes"])


def test_calibration_is_in_all_that_is_written(worlds):
    logs = worlds.linear_logs([30, 25, 40, 22], noise=0.2)
    options = EvaluationOptions([1, 2, 5], 4, 3, 19, resamples=100)
    results = evaluate(worlds.Linear(0.2), None, logs.spec(), logs, logs, None, options)
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))["calibration"]["position"]
    assert saved.keys() == {"1", "2", "5"}
    assert saved["5"]["coverage"].keys() == {"50", "80", "90"}
    assert (
        saved["5"]["coverage"]["90"]["nominal"] == 0.9 and len(saved["5"]["rank_histogram"]) == 20
    )
    numbers = results.prediction.observations["position"].calibration[5]
    html, text = page(results), markdown(results)
    for title in ("Calibration of sampled position", "Steps until persistence is nearer"):
        assert title in html and title in text
    assert numbers.spread_skill_ratio.brief in text and numbers.coverage[80].brief in text
    svg = 'aria-label="position · +5 steps: how often'
    assert html.count(svg) == 2  # ranks, coverage
    checked(html)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(results))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 100
    assert numbers.coverage[90].brief in shown and numbers.coverage[80].brief not in shown


def test_the_last_checkpoint_stands_beside_the_best(results):
    earned = np.array([-500.0, -600.0])
    returns = {"policy": AgentReturns(Bootstrap(100).mean(earned, "episodes"), earned)}
    source = dataclasses.replace(results.provenance, step=90)
    last = dataclasses.replace(results, returns=returns, provenance=source)
    both = dataclasses.replace(results, last=last)
    saved = json.loads(json.dumps(to_json(both), allow_nan=False))
    assert saved["step"] == 40 and saved["last"]["step"] == 90
    assert saved["last"]["returns"]["policy"]["value"] == -550
    assert saved["last"]["prediction"].keys() == {"position"}
    for text in (markdown(both), page(both).replace("\u2212", "-")):
        assert "policy, last checkpoint" in text and "step 90) beside this best one" in text
    same = dataclasses.replace(results, last=results)
    assert "also the last one" in markdown(same)
    assert to_json(results)["last"] is None and "last checkpoint" not in markdown(results)


def test_both_checkpoints_tell_how_they_rank_policies(results):
    def decision(wrong: float) -> PolicyRanking:
        real = np.arange(9.0)
        imagined = ImaginedReturn(np.where(real < wrong, -real, real))
        agreement = rank_agreement(imagined, RealReturn(real), Bootstrap(100))
        return PolicyRanking({200: agreement}, {}, 12, None)

    source = dataclasses.replace(results.provenance, step=90)
    last = dataclasses.replace(results, decision=decision(5), provenance=source)
    both = dataclasses.replace(results, decision=decision(0), last=last)
    text = markdown(both)
    assert "## Ranking of policies, 12 starts each, over 9 policies" in text
    assert "## Ranking of policies, 12 starts each, last checkpoint, over 9 policies" in text
    found = last.decision.agreement.spearman
    assert found.value < both.decision.agreement.spearman.value == 1
    assert f"rank correlation {found} of policies" in summarize(both)[-1]
    assert to_json(both)["last"]["policy_ranking"]["spearman"]["value"] == found.value
    same = dataclasses.replace(both, last=dataclasses.replace(both, last=None))
    assert "last checkpoint, over" not in markdown(same)


def test_the_headline_says_how_far_and_how_sure(worlds):
    """Futures of a world without noise, drawn with noise; it never does worse than persistence
    over one step."""
    logs = worlds.linear_logs([30, 25, 40, 22])
    options = EvaluationOptions([1], 4, 3, 19, resamples=100)
    said = {}
    for noise in (0.05, 1e-6):
        results = evaluate(worlds.Linear(noise), None, logs.spec(), logs, logs, None, options)
        said[noise] = summarize(results)[1]
    assert "no nearer before step 1 [1, 1], for 95 % before step 1 [1, 1]." in said[1e-6]
    assert "Its sampled futures are too wide at 1 step." in said[0.05]


def test_horizons_that_are_neighbours_are_told_by_their_ends():
    of = {1: "good", 2: "good", 5: "good", 10: "bad", 15: "even", 25: "even"}
    assert _by_horizon(of) == "good at 1 to 5 steps, bad at 10 steps and even at 15 and 25 steps"
    assert _by_horizon(dict.fromkeys(of, "good")) == "good at 1 to 25 steps"
    assert _by_horizon(of | {5: "bad", 10: "good"}).startswith(
        "good at 1, 2 and 10 steps, bad at 5"
    )
