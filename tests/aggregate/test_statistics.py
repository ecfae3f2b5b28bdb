"""Several runs on several tasks in one number, beside SciPy and plain loops."""

import numpy as np
import pytest
from scipy import stats

from worldmodel.aggregate.statistics import (
    aggregate,
    interquartile_mean,
    median_of_tasks,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from worldmodel.evaluation.statistics import Bootstrap, means, note_on_seeds


def table(runs=7, tasks=4, seed=0):
    return np.random.default_rng(seed).gamma(2.0, 0.4, (runs, tasks))


def naive(scores):
    return {
        "iqm": stats.trim_mean(scores, 0.25, axis=None),
        "mean": scores.mean(),
        "median": np.median(scores.mean(0)),
        "optimality_gap": np.maximum(1 - scores, 0).mean(),
    }


@pytest.mark.parametrize("shape", [(7, 4), (3, 9), (5, 1), (2, 3)])
def test_aggregates_are_those_of_plain_numpy(shape):
    scores = table(*shape)
    found = aggregate(scores, Bootstrap(200))
    for name, value in naive(scores).items():
        assert found[name].value == pytest.approx(value)
        assert found[name].n == shape[0] and "within tasks" in found[name].method


def test_statistics_of_a_draw_are_those_of_the_drawn_scores():
    scores = table()
    runs, tasks = scores.shape
    generator = np.random.default_rng(1)
    statistics = {
        "iqm": interquartile_mean(scores),
        "mean": means(scores.ravel()),
        "median": median_of_tasks(scores),
        "optimality_gap": optimality_gap(scores, 1.0),
    }
    for _ in range(20):
        drawn = generator.integers(runs, size=scores.shape)
        counts = np.zeros(scores.shape, int)
        np.add.at(counts, (drawn, np.arange(tasks)), 1)
        expected = naive(np.take_along_axis(scores, drawn, 0))
        for name, statistic in statistics.items():
            assert statistic(counts.reshape(1, -1))[0] == pytest.approx(expected[name])


def test_every_task_keeps_its_number_of_runs():
    """Tasks that differ a hundredfold and runs that do not: the interval has no width."""
    scores = np.tile(np.array([[0.01, 1.0, 100.0]]), (6, 1))
    for number in aggregate(scores, Bootstrap(300)).values():
        assert number.low == pytest.approx(number.value) and number.high == pytest.approx(
            number.value
        )


def test_same_seed_same_interval():
    scores = table()
    assert aggregate(scores, Bootstrap(seed=4)) == aggregate(scores, Bootstrap(seed=4))
    assert aggregate(scores, Bootstrap(seed=4)) != aggregate(scores, Bootstrap(seed=5))


def test_one_run_has_no_interval():
    number = aggregate(table(1, 3), Bootstrap(200))["iqm"]
    assert np.isnan(number.low) and "single run" in number.method


def test_the_interval_at_20_runs_covers_the_truth():
    """95 % nominal, 9 tasks. The share itself has a standard error of half a per cent."""
    generator, tasks = np.random.default_rng(0), np.linspace(0.2, 1.0, 9)

    def scores(runs):
        return tasks + 0.3 * generator.standard_normal((runs, 9))

    truth = stats.trim_mean(scores(400_000), 0.25, axis=None)
    hits = []
    for seed in range(2000):
        drawn = scores(20)
        statistic = interquartile_mean(drawn)
        number = Bootstrap(400, seed=seed).stratified(statistic, [drawn.shape], "iqm")
        hits.append(number.low <= truth <= number.high)
    assert np.mean(hits) >= 0.93


def test_the_profile_is_the_share_above_each_threshold():
    scores = table()
    thresholds = np.array([0.0, 0.5, 1.0, 9.0])
    found = performance_profile(scores, thresholds, Bootstrap(200))
    assert [n.value for n in found] == pytest.approx([(scores > t).mean() for t in thresholds])
    assert found[0].value == 1 and found[-1].value == 0
    assert all(n.low <= n.value <= n.high for n in found)


def test_probability_of_improvement_is_mann_whitneys():
    ours, theirs = np.round(table(7, 4), 1), np.round(table(5, 4, 1), 1)  # with ties
    pairs = [stats.mannwhitneyu(ours[:, t], theirs[:, t]).statistic / (7 * 5) for t in range(4)]
    number = probability_of_improvement(ours, theirs, Bootstrap(300))
    assert number.value == pytest.approx(np.mean(pairs))
    assert number.low < number.value < number.high and number.n == 5
    assert probability_of_improvement(ours + 9, theirs, Bootstrap(300)).low == 1
    with pytest.raises(ValueError, match="4 and 3 tasks"):
        probability_of_improvement(ours, theirs[:, :3], Bootstrap(300))


def test_what_is_no_table_is_refused():
    with pytest.raises(ValueError, match=r"\(runs, tasks\)"):
        aggregate(np.zeros(3), Bootstrap())


def test_few_seeds_are_reported_to_be_few():
    assert note_on_seeds(5) is None
    assert note_on_seeds(4).startswith("4 training seeds say")
    assert note_on_seeds(1).startswith("A single training seed says")
