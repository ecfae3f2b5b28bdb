"""Finished runs put together by method, task and seed: beside plain loops, and refused in words."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from evaluated_runs import POLICIES, TASKS, Evaluator, returns_of, write_evaluated_run
from scipy import stats

from worldmodel.aggregate.command import AggregateOptions
from worldmodel.aggregate.command import run as aggregate
from worldmodel.aggregate.methods import ScoreTable, distinguishing, score_table
from worldmodel.aggregate.results import (
    AggregateResults,
    aggregate_methods,
    aggregate_tables,
    summarize,
)
from worldmodel.aggregate.runs import find_runs, read_run, read_runs
from worldmodel.config import NoPolicy
from worldmodel.config.arguments import parse_options
from worldmodel.data.spec import DataSpec
from worldmodel.errors import CheckpointError, ConfigError
from worldmodel.evaluation.statistics import Bootstrap
from worldmodel.policies.td3_bc import TD3BCOptions
from worldmodel.system.exit_status import run_cli


@pytest.fixture
def evaluate(tmp_path: Path, walker_spec: DataSpec) -> Evaluator:
    return partial(write_evaluated_run, tmp_path / "runs", walker_spec)


@pytest.fixture
def runs(evaluate: Evaluator, tmp_path: Path) -> Path:
    """Two methods on two tasks: one trained its 5 seeds at once, the other has 4 runs."""
    for task, reference in TASKS.items():
        returns = returns_of("td3_bc", task, 5)
        evaluate(f"td3_bc-{task}", POLICIES["td3_bc"], task, returns, 0, reference)
        for seed in range(4):
            returns = returns_of("rebrac", task, 1, seed)
            evaluate(f"rebrac-{task}-{seed}", POLICIES["rebrac"], task, returns, seed, reference)
    return tmp_path / "runs"


def table_of(
    *words: object, group_by: list[str] | None = None, score: str | None = None
) -> ScoreTable:
    found, _ = read_runs(find_runs(list(map(str, words))), None)
    return score_table(found, group_by, score)


def naive() -> dict[str, np.ndarray]:
    """Normalised scores (seeds, tasks), by the definition."""
    scores = {}
    for method, seeds in {"td3_bc": 5, "rebrac": 4}.items():
        columns = []
        for task, reference in TASKS.items():
            means = returns_of(method, task, seeds).mean(1)
            columns.append(100 * (means - reference.min) / (reference.max - reference.min))
        scores[method] = np.stack(columns, 1)
    return scores


def test_scores_are_each_training_seeds_means(runs: Path) -> None:
    table = table_of(runs)
    assert (
        table.group_by == ["policy.name"] and table.normalized and sorted(table.tasks) == [*TASKS]
    )
    order = [table.tasks.index(task) for task in TASKS]
    for method, scores in naive().items():
        np.testing.assert_allclose(table.scores[method][:, order], scores)
    assert [len(table.runs[method]) for method in ("td3_bc", "rebrac")] == [2, 8]
    assert table.notes == []


def test_aggregates_are_those_of_plain_loops(runs: Path) -> None:
    found, expected = aggregate_methods(table_of(runs)), naive()
    assert found.methods == ["rebrac", "td3_bc"]  # the better one first
    for method, scores in expected.items():
        numbers = found.numbers[method]
        assert numbers["iqm"].value == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
        assert numbers["mean"].value == pytest.approx(scores.mean())
        assert numbers["median"].value == pytest.approx(np.median(scores.mean(0)))
        assert numbers["optimality_gap"].value == pytest.approx(
            np.clip(100 - scores, 0, None).mean()
        )
        assert all(n.low <= n.value <= n.high and n.n == len(scores) for n in numbers.values())
        shares = [np.mean(scores > threshold) for threshold in found.thresholds]
        assert [n.value for n in found.performance_profiles[method]] == pytest.approx(shares)
        for place, task in enumerate(TASKS):
            assert found.by_task[method][task].value == pytest.approx(scores[:, place].mean())
    ours, theirs = expected["rebrac"], expected["td3_bc"]
    wins = [a > b for t in (0, 1) for a, b in itertools.product(ours[:, t], theirs[:, t])]
    better, worse = found.improvement["rebrac"]["td3_bc"], found.improvement["td3_bc"]["rebrac"]
    assert better.value == pytest.approx(np.mean(wins)) and better.low < better.value < better.high
    assert (1 - worse.value, 1 - worse.high, 1 - worse.low) == (
        better.value,
        better.low,
        better.high,
    )


def of_scores(**scores: list) -> AggregateResults:
    arrays = {method: np.array(own, float) for method, own in scores.items()}
    tasks = [f"task {i}" for i in range(next(iter(arrays.values())).shape[1])]
    return aggregate_methods(ScoreTable(tasks, arrays, True), Bootstrap(300))


def test_a_method_is_ahead_where_the_whole_interval_is_above_a_half() -> None:
    low, mixed, high = ([[base + i, base + i] for i in range(6)] for base in (10, 12, 50))
    clear = summarize(of_scores(low=low, mixed=mixed, high=high))
    assert clear[0].startswith(
        "high is ahead of mixed (probability of improvement 1.00 [1.00, 1.00]"
    )
    assert " and low (" in clear[0] and clear[1].startswith("mixed is ahead of low (")
    level = summarize(of_scores(one=low, other=[*low[1:], low[0]], high=mixed[:1]))
    assert level[0] == "No method is clearly ahead of all others."  # a single run has no interval
    assert level[-1].startswith("A single training seed says little")
    assert summarize(of_scores(one=low, other=low))[0] == "No method is clearly ahead of the other."
    assert len(aggregate_tables(of_scores(alone=low))) == 2  # nobody to be better than
    assert summarize(of_scores(alone=low))[0].startswith(
        "Interquartile mean of the normalized score"
    )


def test_methods_are_distinguished_by_few_options(evaluate: Evaluator) -> None:
    assert distinguishing([{"a": "1", "b": "1"}, {"a": "1", "b": "2"}], ["a", "b"]) == ["b"]
    assert distinguishing([{"a": "1"}, {"a": "1"}], ["a"]) == []
    for name, weight in {"weak": 1.0, "strong": 4.0}.items():
        for seed in range(2):
            policy = TD3BCOptions(alpha=weight)
            evaluate(
                f"{name}-{seed}", policy, "Hopper-v5", returns_of("td3_bc", "Hopper-v5", 1), seed
            )
    runs = evaluate(
        "x", POLICIES["rebrac"], "Hopper-v5", returns_of("rebrac", "Hopper-v5", 1)
    ).parent
    found = table_of(runs)
    assert found.group_by == ["policy.name", "policy.alpha"] and not found.normalized
    assert [*found.scores] == [
        "td3_bc policy.alpha=4.0",
        "td3_bc policy.alpha=1.0",
        "rebrac",
    ]
    assert (
        "optimality_gap" not in aggregate_methods(found, Bootstrap(100)).numbers[[*found.scores][0]]
    )
    with pytest.raises(ConfigError, match=r"with seed=0; they differ by policy\.alpha: add that"):
        table_of(runs, group_by=["policy.name"])
    mixed = table_of(runs / "weak-0", runs / "strong-1", group_by=["policy.name"])
    assert mixed.notes == ["Runs of td3_bc also differ by policy.alpha."]
    with pytest.raises(ConfigError, match=r"did you mean 'policy\.alpha'"):
        table_of(runs, group_by=["alpha"])
    with pytest.raises(ConfigError, match=r"group_by=policy: holds several.*policy\.name"):
        table_of(runs, group_by=["policy"])


def test_a_planner_is_a_method_of_its_own(evaluate: Evaluator) -> None:
    returns = returns_of("td3_bc", "Hopper-v5", 1)
    for kind in ("cem", "mppi"):
        given = {"agent": "planner", "evaluation__planner__kind": kind}
        runs = evaluate(kind, NoPolicy(), "Hopper-v5", returns, **given).parent
    found = table_of(runs)
    assert [*found.scores] == [f"evaluation.planner.kind={kind}" for kind in ("cem", "mppi")]
    assert read_runs(find_runs([str(runs)]), "policy") == ([], [runs / "cem", runs / "mppi"])


def test_what_was_not_evaluated_alike_is_reported(evaluate: Evaluator) -> None:
    for seed in range(3):
        returns = returns_of("td3_bc", "Hopper-v5", 1, seed, episodes=6 - seed // 2)
        given = {"evaluation__episodes": 6 - seed // 2, "training__pretrained_model": "runs/model"}
        early = {"step": 99 + seed % 2}
        name = f"run-{seed}"
        runs = evaluate(
            name, POLICIES["td3_bc"], "Hopper-v5", returns, seed, **given, **early
        ).parent
    shared, early, episodes = table_of(runs).notes
    assert shared.startswith("Runs of td3_bc on Hopper-v5 share a world model (runs/model)")
    assert early.endswith(f"the end of their training: {runs / 'run-0'}, {runs / 'run-2'}.")
    assert episodes == "Means are over different numbers of episodes, 5 to 6."


def test_uneven_seeds_are_cut_and_said_to_be(evaluate: Evaluator) -> None:
    for task, seeds in zip(TASKS, (3, 2), strict=True):
        returns = returns_of("td3_bc", task, seeds)
        runs = evaluate(task, POLICIES["td3_bc"], task, returns, 0, TASKS[task]).parent
    found = table_of(runs)
    assert found.scores["td3_bc"].shape == (2, 2)
    (note,) = found.notes
    assert note.startswith("td3_bc has 3 on Hopper-v5, 2 on Walker2d-v5: of each task the first 2")


def test_logs_of_one_environment_are_tasks_of_their_own(evaluate: Evaluator) -> None:
    returns, reference = returns_of("td3_bc", "Hopper-v5", 2), TASKS["Hopper-v5"]
    for logs in ("a" * 64, "b" * 64):
        runs = evaluate(
            logs[:1], POLICIES["td3_bc"], "Hopper-v5", returns, 0, reference, logs
        ).parent
    assert table_of(runs).tasks == ["Hopper-v5 aaaaaaaa", "Hopper-v5 bbbbbbbb"]


def test_scales_that_differ_are_not_put_together(runs: Path, evaluate: Evaluator) -> None:
    with pytest.raises(
        ConfigError, match="score=return: returns of 2 tasks .* are on different scales"
    ):
        table_of(runs, score="return")
    hopper = [runs / "td3_bc-Hopper-v5", runs / "rebrac-Hopper-v5-0"]
    returns = table_of(*hopper, score="return")
    expected = returns_of("td3_bc", "Hopper-v5", 5).mean(1)
    np.testing.assert_allclose(returns.scores["td3_bc"][:, 0], expected)
    bare = evaluate("bare", POLICIES["rebrac"], "Hopper-v5", returns_of("rebrac", "Hopper-v5", 1))
    with pytest.raises(ConfigError, match="bare have no normalized score; evaluate them"):
        table_of(hopper[0], bare, score="normalized")
    with pytest.raises(ConfigError, match="without it: .*bare"):
        table_of(runs / "td3_bc-Hopper-v5", runs / "td3_bc-Walker2d-v5", bare)
    assert not table_of(hopper[0], bare).normalized
    other = dataclasses.replace(TASKS["Hopper-v5"], max=99.0)
    given = (POLICIES["rebrac"], "Hopper-v5", returns_of("rebrac", "Hopper-v5", 1), 0, other)
    with pytest.raises(
        ConfigError, match="normalized by different reference returns(?s:.*)100 is 99"
    ):
        table_of(hopper[0], evaluate("other", *given))


def test_what_is_missing_is_named(runs: Path, evaluate: Evaluator) -> None:
    for seed in range(4):
        (runs / f"rebrac-Walker2d-v5-{seed}" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"(?s)by policy\.name.*rebrac: no run on Walker2d-v5"):
        table_of(runs)
    (runs / "rebrac-Hopper-v5-0" / "evaluation" / "results.json").unlink()
    (runs / "rebrac-Hopper-v5-1" / "evaluation" / "episodes.jsonl").unlink()
    with pytest.raises(ConfigError) as refused:
        table_of(runs)
    for number, name in enumerate(("results.json", "episodes.jsonl")):
        run = runs / f"rebrac-Hopper-v5-{number}"
        assert f"{run} is not evaluated: evaluation/{name} is missing" in str(refused.value)
        assert f"run `python eval.py run={run}`" in str(refused.value)
    with pytest.raises(CheckpointError, match="no run directory matches this pattern"):
        find_runs([str(runs / "mopo-*")])
    nobody = evaluate("nobody", NoPolicy(), "Hopper-v5", None)
    assert read_run(nobody) is None
    unplayed = evaluate("unplayed", POLICIES["rebrac"], "Hopper-v5", None)
    with pytest.raises(CheckpointError, match="no returns of its policy or planner; run"):
        read_run(unplayed)


def test_episodes_of_another_evaluation_are_refused(runs: Path) -> None:
    run = runs / "td3_bc-Hopper-v5"
    episodes = run / "evaluation" / "episodes.jsonl"
    whole = episodes.read_text()
    episodes.write_text("".join(whole.splitlines(keepends=True)[:-7]))
    with pytest.raises(CheckpointError, match="are of different evaluations"):
        read_run(run)
    episodes.write_text(whole[:-20])
    with pytest.raises(CheckpointError, match=r"episodes\.jsonl is damaged"):
        read_run(run)


@pytest.mark.parametrize("lost", [None, float("nan"), float("inf"), float("-inf")])
def test_a_seed_that_diverged_counts_as_the_lowest_score(runs: Path, lost: float | None) -> None:
    """One episode of one of rebrac's runs has no finite return, in any text that JSON may hold."""
    folder = runs / "rebrac-Hopper-v5-0" / "evaluation"
    first, *others = (folder / "episodes.jsonl").read_text().splitlines(keepends=True)
    changed = json.dumps(json.loads(first) | {"return": lost})
    (folder / "episodes.jsonl").write_text("".join([changed, "\n", *others]))
    results = json.loads((folder / "results.json").read_text())
    results["returns"]["policy"]["value"] = lost
    (folder / "results.json").write_text(json.dumps(results))
    table, expected = table_of(runs), naive()
    (note,) = table.notes
    assert note.startswith("1 of 4 training seeds of rebrac on Hopper-v5 have no finite return")
    column = table.scores["rebrac"][:, table.tasks.index("Hopper-v5")]
    assert column[0] == min(expected["td3_bc"][:, 0].min(), expected["rebrac"][1:, 0].min())
    found = aggregate_methods(table, Bootstrap(100))
    assert all(np.isfinite(n.value) for m in found.methods for n in found.numbers[m].values())


def test_a_task_without_a_finite_return_is_refused(evaluate: Evaluator) -> None:
    returns = np.full((2, 3), np.nan)
    runs = evaluate("lost", POLICIES["td3_bc"], "Hopper-v5", returns).parent
    with pytest.raises(ConfigError, match="Hopper-v5: no run has a finite return"):
        table_of(runs)


def test_the_command_writes_and_says_all(runs: Path, evaluate: Evaluator) -> None:
    evaluate("a_model", NoPolicy(), "Hopper-v5", None)
    words = [sys.executable, "-m", "worldmodel.aggregate", f"runs=[{runs},{runs}/td3_bc-*]"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = runs / ".aggregated"
    assert done.stdout.rstrip().endswith(str(folder / "aggregate.html"))
    found = json.loads((folder / "aggregate.json").read_text())
    iqm = stats.trim_mean(naive()["rebrac"], 0.25, axis=None)
    assert found["methods"]["rebrac"]["iqm"]["value"] == pytest.approx(iqm)
    assert found["methods"]["td3_bc"]["seeds"] == 5 and found["group_by"] == ["policy.name"]
    assert np.shape(found["performance_profiles"]["rebrac"]["high"]) == np.shape(
        found["performance_profiles"]["thresholds"]
    )
    assert found["summary"][0].startswith("rebrac is ahead of td3_bc (probability of improvement")
    text, page = ((folder / f"aggregate.{end}").read_text() for end in ("md", "html"))
    for said in (done.stdout, text, page):
        for word in ("rebrac is ahead of td3_bc", "4 training seeds say little", "optimality gap"):
            assert word in " ".join(said.split())
    assert "Left out, because they have no agent" in text and "a_model" in text
    assert page.count("<svg") == 2 and "http" not in page and "NaN" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs=nowhere"], "nowhere is not a run"),
        (["run=a"], "did you mean 'runs'"),
        ([], "runs needs a value"),
        (["runs=a", "score=normalised"], "did you mean 'normalized'"),
        (["--group_by=seed"], "options have no dashes: group_by=seed"),
    ],
)
def test_mistakes_are_reported_in_words(words: list[str], said: str, capsys) -> None:
    assert run_cli(lambda: aggregate(words)) == 2
    shown = capsys.readouterr()
    assert said in shown.err and not shown.out


def test_the_help_shows_every_option(capsys) -> None:
    assert aggregate(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        f"\n  {key} = " in shown for key in ("runs", "group_by", "score", "agent", "output_dir")
    )


def test_a_best_checkpoint_that_is_the_last_is_not_said_to_be_lucky(
    smoke_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    file = run / "evaluation" / "results.json"
    found = json.loads(file.read_text())
    for step, best in ((found["step"], False), (found["step"] + 30, True)):
        file.write_text(json.dumps(found | {"last": {"stage": found["stage"], "step": step}}))
        assert read_run(run).best == best


def test_a_run_that_was_really_trained_is_read(smoke_run: Path) -> None:
    run = read_run(smoke_run)
    found = json.loads((smoke_run / "evaluation" / "results.json").read_text())
    assert run.agent == "policy" and run.environment == "Pendulum-v1" and not run.best
    assert run.returns == pytest.approx([found["returns"]["policy"]["value"]])
    assert run.options["policy.name"] == found["config"]["policy"]["name"]


@pytest.mark.parametrize(
    ("word", "runs"),
    [
        ("runs=runs", ["runs"]),
        ("runs=runs/a,runs/b", ["runs/a", "runs/b"]),
        ("runs=[runs/a,runs/b]", ["runs/a", "runs/b"]),
        ("runs=runs/bc-[0-9]*", ["runs/bc-[0-9]*"]),
        ("runs=a run", ["a run"]),
    ],
)
def test_lists_may_be_written_without_brackets(word: str, runs: list[str]) -> None:
    for by, expected in (("null", None), ("policy.name", ["policy.name"])):
        options = AggregateOptions()
        parse_options([word, f"group_by={by}"], options)
        assert (options.runs, options.group_by) == (runs, expected)
