"""What is written: whole, self-contained, the same numbers everywhere."""

import base64
import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from contexts import context_of
from PIL import Image
from rich.console import Console

from worldmodel.config import EvaluationOptions
from worldmodel.config.references import resolve_reference
from worldmodel.data import build_card
from worldmodel.evaluation.evaluator import evaluate, render, write
from worldmodel.evaluation.figures import ticks
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn, rank_agreement
from worldmodel.evaluation.report import page
from worldmodel.evaluation.result_table import by_horizon
from worldmodel.evaluation.results import COLUMNS, Provenance, Results, markdown, summarize, to_json
from worldmodel.evaluation.section import Section
from worldmodel.evaluation.sections.calibration import Calibration
from worldmodel.evaluation.sections.policy_ranking import PolicyRanking
from worldmodel.evaluation.sections.prediction import (
    Curve,
    ExampleRollout,
    HorizonMetrics,
    ObservationPrediction,
    Prediction,
)
from worldmodel.evaluation.sections.returns import AgentReturns, Returns, Scale
from worldmodel.evaluation.sections.usable_horizon import UsableHorizons
from worldmodel.evaluation.statistics import Bootstrap, Estimate, wilson

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
    dataset = worlds.linear_dataset([30, 25, 40, 22])
    options = EvaluationOptions([1, 5], 4, 3, 2, resamples=100)
    model, spec = worlds.Linear(0.2), dataset.spec()
    source = Provenance("a <run>", "world_model", 40, command="python eval.py run=runs/a")
    context = context_of(model, dataset, options, spec, environment="Pendulum-v1")
    found = evaluate(context, source)
    return with_returns(found, policy=np.array([-150.0, -900.0, -1234.0]))


def with_section(results: Results, name: str, section: Section) -> Results:
    return dataclasses.replace(results, sections={**results.sections, name: section})


def with_returns(results: Results, **earned: np.ndarray) -> Results:
    """Also of these agents, on top of those it has."""
    before = results[Returns]
    made = {
        name: AgentReturns(Bootstrap(100).mean(values, "episodes"), values)
        for name, values in earned.items()
    }
    returns = Returns({**made, **{n: r for n, r in before.returns.items() if n not in made}})
    return with_section(results, "returns", returns)


def ranking(wrong: float) -> PolicyRanking:
    real = np.arange(9.0)
    imagined = ImaginedReturn(np.where(real < wrong, -real, real))
    agreement = rank_agreement(imagined, RealReturn(real), Bootstrap(100))
    return PolicyRanking({200: agreement}, {}, 12, None)


def checked(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_files_are_written_and_hold_the_same_numbers(results, worlds, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"stage": "world_model", "step": s, "time": s, "loss/total": 1 / s} for s in (1, 2, 3)]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"stage": "wor')
    write(results, tmp_path, metrics, build_card(worlds.linear_dataset([30, 25])))
    saved = json.loads((tmp_path / "results.json").read_text())
    html = (tmp_path / "report.html").read_text()
    markdown = (tmp_path / "results.md").read_text()
    for horizon in ("1", "5"):
        numbers = saved["prediction"]["position"][horizon]
        assert {"error", "persistence", "skill"} <= numbers.keys()
        each = numbers.pop("dimensions")
        assert len(each) == 2
        assert all(number.keys() - {"episodes"} == KINDS for number in [*numbers.values(), *each])
        error = Estimate.from_json(numbers["error"], saved["methods"]).brief
        assert error in markdown
        assert f"<b>{error.split(' [')[0]}</b>" in html
    assert saved["returns"]["dataset"]["n"] == 4
    assert saved["episodes"]["policy"] == [-150, -900, -1234]
    assert len(saved["held_out_sha256"]) == 64
    assert "loss/total" in html and "a linear world" in html


def test_success_and_normalised_scores_stand_beside_the_return_with_their_scale(results):
    reference = resolve_reference(EvaluationOptions(reference="d4rl/hopper"))
    earned = dataclasses.replace(
        results[Returns].returns["policy"],
        success=wilson(2, 3),
        normalized=Estimate(47.1, 40.0, 50.0, 3, "", "episodes"),
    )
    returns = {**results[Returns].returns, "policy": earned}
    section = Returns(returns, scale=Scale(reference, reference.note(200)))
    scaled = with_section(results, "returns", section)
    saved, text = to_json(scaled), markdown(scaled)
    assert saved["success"]["policy"]["value"] == 2 / 3 and "dataset" not in saved["success"]
    assert saved["normalized"]["policy"]["value"] == 47.1
    assert saved["reference"]["name"] == "d4rl/hopper" and saved["reference"]["source"]
    assert "| agent | return | success | normalized | episodes |" in text
    for report in (text, checked(page(scaled, [], None)).text):
        assert "not comparable with published ones" in report
    assert to_json(results)["normalized"] == {} and to_json(results)["reference"] is None


def test_page_is_whole_and_loads_nothing(results):
    html = page(results, [], None)
    checker = checked(html)
    assert all(load.startswith("data:image/png;base64,") for load in checker.loads)
    assert not re.search(r"url\(|@import|https?://", html)
    assert len(html) < 200_000
    assert "a <run>" in checker.text
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_the_csv_has_every_number_with_its_interval(results, tmp_path):
    write(results, tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    with (tmp_path / "results.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        rows = {tuple(row[name] for name in COLUMNS[:4]): row for row in reader}
    for horizon in ("1", "5"):
        number = saved["prediction"]["position"][horizon]["skill"]
        row = rows["prediction", "position", horizon, "skill"]
        assert {name: float(row[name]) for name in COLUMNS[4:]} == {
            name: number[name] for name in COLUMNS[4:]
        }
    row = rows["returns", "policy", "", "returns"]
    assert float(row["value"]) == saved["returns"]["policy"]["value"]
    assert len(rows) == json.dumps(saved).count('"sample_unit"')  # every number, under its own name


def test_a_method_text_stands_once_in_results_json(results):
    text = json.dumps(to_json(results))
    methods = json.loads(text)["methods"]
    assert json.loads(text)["format"] == 2 and len(methods) == len({*methods})
    assert all(text.count(json.dumps(method)) == 1 for method in methods)


def test_the_report_begins_with_cards_of_one_number_each(results):
    html = page(results)
    cards = re.findall(r'<div class="card"><h2>(.*?)</h2><p class="number">(.*?)</p>', html)
    titles = [title for title, _ in cards]
    assert titles == [
        "How far ahead to trust it",
        "What the policy returns",
    ]  # 2 samples: no spread
    median = results[UsableHorizons].observations["position"].percentiles[50]
    assert cards[0][1].startswith(f"{median.value:.0f} ")
    assert html.index('class="cards"') < html.index("<section>")
    alone = Results({}, 0.95)
    assert 'class="cards"' not in page(alone)


def test_notes_stand_once_in_their_own_section(results):
    noted = with_section(results, "policy_ranking", ranking(0))
    for text in (page(noted), markdown(noted)):
        assert text.count("Returns imagined by the model against those") == 1
    html = page(noted)
    for title, words in (
        ("Rewards and termination", "No held-out episode was terminated"),
        ("Usable horizon", "A start is usable until"),
        ("Policy ranking", "Returns imagined by the model against those"),
        ("Open-loop prediction", "Errors are medians"),
    ):
        begin = html.index(f"<h2>{title}</h2>")
        assert words in html[begin : html.index("</section>", begin)]
        assert html.count(words) == 1


def test_terminal_tables_fit_100_columns(results):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 100
    assert results[Prediction].observations["position"].horizons[1].skill.brief in text


def test_summary_states_what_the_intervals_allow():
    def number(value, low, high):
        return Estimate(value, low, high, 50, "")

    def said(skill, policy):
        horizons = {
            1: HorizonMetrics(number(0.2, 0.1, 0.3), number(1, 1, 1), skill, None),
        }
        prediction = Prediction({"x": ObservationPrediction("", horizons)})
        returns = {
            "policy": AgentReturns(policy, np.zeros(1)),
            "dataset": AgentReturns(number(0, -1, 1), np.zeros(1)),
        }
        sections = {"prediction": prediction, "returns": Returns(returns)}
        return " ".join(summarize(Results(sections, 0.95)))

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
    predicted = ObservationPrediction("share of the pixel range", horizons, curve, [example])
    results = Results({"prediction": Prediction({"image": predicted})}, 0.95)
    video, *stills = checked(page(results)).loads
    assert len(stills) == 2 * 4
    kind, data = video.split(",")
    film = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/gif;base64" and film.n_frames == 4  # the steps that were imagined
    film.seek(3)
    left = np.asarray(film.convert("RGB"), int)[:, :16]
    assert np.abs(left - real[5]).mean() < np.abs(left - real[4]).mean() / 4
    assert "climatology" not in to_json(results)["prediction"]["image"]["4"]


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
    assert all(number["n"] > 0 and saved["methods"][number["method"]] for number in found)
    assert any("terminated" in note for note in saved["notes"])
    assert any("single training seed" in note for note in saved["notes"])


def test_calibration_is_in_all_that_is_written(worlds):
    dataset = worlds.linear_dataset([30, 25, 40, 22], noise=0.2)
    options = EvaluationOptions([1, 2, 5], 4, 3, 19, resamples=100)
    results = evaluate(context_of(worlds.Linear(0.2), dataset, options))
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))["calibration"]["position"]
    assert saved.keys() == {"1", "2", "5"}
    assert saved["5"]["coverage"].keys() == {"50", "80", "90"}
    assert (
        saved["5"]["coverage"]["90"]["nominal"] == 0.9 and len(saved["5"]["rank_histogram"]) == 20
    )
    numbers = results[Calibration].observations["position"][5]
    html, text = page(results), markdown(results)
    for title in ("Calibration of sampled position", "Usable horizon in steps"):
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
    source = dataclasses.replace(results.provenance, step=90)
    last = with_returns(results, policy=np.array([-500.0, -600.0]))
    last = dataclasses.replace(last, provenance=source)
    both = dataclasses.replace(results, last=last)
    saved = json.loads(json.dumps(to_json(both), allow_nan=False))
    assert saved["step"] == 40 and saved["last"]["step"] == 90
    assert saved["last"]["returns"]["policy"]["value"] == -550
    assert saved["last"]["prediction"].keys() == {"position"}
    for text in (markdown(both), page(both).replace("\u2212", "-")):
        assert "ast checkpoint: " in text and "step 90), next to this best one: skill" in text
        assert "return -550" in text and "-550 [" in text
    same = dataclasses.replace(results, last=results)
    assert "also the last one" in markdown(same)
    assert to_json(results)["last"] is None and "ast checkpoint" not in markdown(results)


def test_both_checkpoints_show_how_they_rank_policies(results):
    source = dataclasses.replace(results.provenance, step=90)
    last = with_section(results, "policy_ranking", ranking(5))
    last = dataclasses.replace(last, provenance=source)
    both = with_section(results, "policy_ranking", ranking(0))
    both = dataclasses.replace(both, last=last)
    text = markdown(both)
    assert text.count("### Ranking of policies, 12 starts each, over 9 policies") == 2
    assert text.index("## Policy ranking") < text.index("## Last checkpoint: Policy ranking")
    found = last[PolicyRanking].agreement.spearman
    assert found.value < both[PolicyRanking].agreement.spearman.value == 1
    assert f"rank correlation {found} of policies" in summarize(both)[-1]
    assert to_json(both)["last"]["policy_ranking"]["spearman"]["value"] == found.value
    same = dataclasses.replace(both, last=dataclasses.replace(both, last=None))
    assert "Last checkpoint: " not in markdown(same)


def test_the_summary_states_the_usable_horizon_and_the_spread(worlds):
    """Rollouts of a world without noise, sampled with noise; never worse than persistence over one
    step.
    """
    dataset = worlds.linear_dataset([30, 25, 40, 22])
    options = EvaluationOptions([1], 4, 3, 19, resamples=100)
    said = {}
    for noise in (0.05, 1e-6):
        said[noise] = summarize(evaluate(context_of(worlds.Linear(noise), dataset, options)))
    assert "Usable horizon of position: 1 [1, 1] steps (median over" in said[1e-6][1]
    assert said[1e-6][1].endswith("1 [1, 1] or more for 95 % of them.")
    assert said[0.05][2] == "Sampled rollouts of position are too wide at 1 step."


def test_neighboring_horizons_are_reported_as_a_range():
    of = {1: "good", 2: "good", 5: "good", 10: "bad", 15: "even", 25: "even"}
    assert by_horizon(of) == "good at 1 to 5 steps, bad at 10 steps and even at 15 and 25 steps"
    assert by_horizon(dict.fromkeys(of, "good")) == "good at 1 to 25 steps"
    assert by_horizon(of | {5: "bad", 10: "good"}).startswith("good at 1, 2 and 10 steps, bad at 5")
