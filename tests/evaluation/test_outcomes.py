"""Predicted rewards and terminations, in a world where both are known."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context_of
from scipy import stats

from worldmodel.config import EvaluationOptions
from worldmodel.evaluation.compare_runs import compare_contexts
from worldmodel.evaluation.sections.rewards_and_termination import (
    RewardsAndTermination,
    area_under_curve,
    f1,
    reward_errors,
)
from worldmodel.evaluation.starts import PredictionStarts, prediction_starts

OPTIONS = EvaluationOptions(
    horizons=[1, 3, 8], context=4, starts_per_episode=5, num_samples=4, resamples=100
)


@pytest.fixture(scope="module")
def dataset(worlds):
    """Episodes of which every other one is terminated; reward: the sum of the position."""
    made = worlds.linear_dataset([30, 25, 40, 22, 35, 28])
    rewards = made.observations["position"].sum(1)
    rewards = np.concatenate([rewards[1:], [0]]).astype(np.float32)
    rewards[made.last_steps] = 0
    return dataclasses.replace(made, rewards=rewards, terminated=np.arange(6) % 2 == 0)


@pytest.fixture(scope="module")
def paying(worlds):
    class Paying(worlds.Linear):
        """Knows the reward, but for a constant."""

        def __init__(self, off=0.0):
            super().__init__()
            self.off = off

        def reward(self, state):
            return dataclasses.replace(super().reward(state), value=state.sum(-1) + self.off)

    return Paying


def evaluated(model, dataset, options=OPTIONS):
    return RewardsAndTermination.run(context_of(model, dataset, options))


def test_a_known_reward_has_no_error(paying, dataset):
    for numbers in evaluated(paying(), dataset).rewards.values():
        assert numbers.error.value < 1e-5 and numbers.return_error.value < 1e-5
        assert numbers.skill.low > 0.999 and numbers.return_skill.low > 0.999


def test_an_error_of_every_step_adds_up_in_the_return(paying, dataset):
    std = dataset.spec().reward_mean_std[1]
    for h, numbers in evaluated(paying(0.5), dataset).rewards.items():
        assert numbers.error.value == pytest.approx(0.5 / std, rel=1e-3)
        assert numbers.return_error.value == pytest.approx(h * 0.5 / std, rel=1e-3)


def test_the_training_mean_is_beside_it(paying, dataset):
    spec = dataset.spec()
    _, starts, _ = prediction_starts(dataset, OPTIONS)
    single, summed = reward_errors(np.zeros((len(starts), 8)), dataset, spec, starts)
    row, mean, std = starts.rows[3], *spec.reward_mean_std
    for h in range(1, min(8, starts.remaining_steps[3]) + 1):
        earned = dataset.rewards[row : row + h].astype(float)
        assert single[1, 3, h - 1] == pytest.approx(abs(mean - earned[-1]) / std, rel=1e-4)
        assert summed[1, 3, h - 1] == pytest.approx(abs(h * mean - earned.sum()) / std, abs=1e-4)
        assert summed[0, 3, h - 1] == pytest.approx(abs(earned.sum()) / std, abs=1e-4)
    short = PredictionStarts(*(np.array([x]) for x in (dataset.last_steps[1] - 2, 3, 2, 1)))
    assert np.isnan(reward_errors(np.zeros((1, 8)), dataset, spec, short)[0][:, 0, 2:]).all()


def test_a_dataset_without_rewards_has_no_reward_errors(worlds, dataset):
    bare = dataclasses.replace(dataset, rewards=None)

    class Unpaid(worlds.Linear):
        def reward(self, state):
            raise AssertionError("no reward")

    found = evaluated(Unpaid(), bare)
    assert found.rewards == {} and any("no rewards" in note for note in found.notes())


# -------------------------------------------------------------------------------------------- ends


@pytest.fixture(scope="module")
def counting(worlds, dataset):
    """A dataset whose position is how many steps are left until a termination, and a model that
    counts."""
    left = np.concatenate([np.arange(n)[::-1] for n in dataset.lengths]).astype(np.float32)
    left += np.repeat(np.where(dataset.terminated, 0, 1000), dataset.lengths)
    observations = {"position": np.stack([left, left], 1)}

    class Counting(worlds.Linear):
        """`late`: believes that ends come so many steps later than they do."""

        def __init__(self, late=0, chance=1.0):
            super().__init__()
            self.late, self.chance = late, chance

        def step(self, state, action, key):
            return state - 1

        def terminal(self, state):
            at_end = jnp.abs(state[..., 0] + self.late) < 0.5
            return dataclasses.replace(super().terminal(state), value=self.chance * at_end)

    return dataclasses.replace(dataset, observations=observations), Counting


def test_known_terminations_are_predicted_at_every_horizon(counting):
    dataset, model = counting
    found = evaluated(model(), dataset).terminations
    assert list(found) == [1, 3, 8]
    for numbers in found.values():
        assert numbers.f1.value == 1 and numbers.auc.value == 1
        assert 0 < numbers.base_rate.value < 0.5
    assert found[1].base_rate.value < found[3].base_rate.value < found[8].base_rate.value


def test_late_terminations_are_missed_by_as_much(counting):
    """Of starts 1, 3 and 8 steps before an end, the first two of them meet it within 3 steps: one
    that is 2 steps late is found from the nearest only."""
    dataset, model = counting
    found = evaluated(model(late=2), dataset).terminations
    assert found[1].f1.value == 0 and found[1].auc.value == 0.5
    assert found[3].f1.value == pytest.approx(2 / 3) and found[3].auc.value == pytest.approx(0.75)


def test_an_unlikely_termination_is_ranked_but_not_predicted(counting):
    dataset, model = counting
    found = evaluated(model(chance=0.3), dataset).terminations
    assert found[3].f1.value == 0 and found[3].auc.value == 1


def test_a_dataset_without_terminations_has_no_predicted_ones(counting):
    dataset, model = counting
    found = evaluated(model(), dataclasses.replace(dataset, terminated=np.zeros(6, bool)))
    assert found.terminations == {} and any("terminated" in note for note in found.notes())


def test_areas_and_f1_of_a_draw_are_those_of_the_repeated_cases():
    generator = np.random.default_rng(0)
    score, happened = np.round(generator.normal(size=40), 1), generator.random(40) < 0.3
    counts = generator.integers(0, 4, (20, 40))
    for row, area, share in zip(
        counts,
        area_under_curve(score, happened)(counts),
        f1(score > 0, happened)(counts),
        strict=True,
    ):
        s, y = np.repeat(score, row), np.repeat(happened, row)
        u = stats.mannwhitneyu(s[y], s[~y]).statistic
        assert area == pytest.approx(u / (y.sum() * (~y).sum()))
        hits = ((s > 0) & y).sum()
        assert share == pytest.approx(2 * hits / ((s > 0).sum() + y.sum()))


def test_models_are_compared_by_the_terminations_they_predict(counting):
    dataset, model = counting
    models = {"late": model(late=2), "knows": model()}
    contexts = {name: context_of(m, dataset, OPTIONS) for name, m in models.items()}
    found = {c.measure.key: c.rows for c in compare_contexts(contexts).measures}
    for place in ("terminal.auc", "terminal.f1"):
        assert list(found[place]) == ["1", "3", "8"]
        for compared in found[place].values():
            numbers = compared.runs
            assert compared.lead.best == "knows" and numbers["knows"].value == 1
            assert compared.lead.margin.value == pytest.approx(1 - numbers["late"].value)
    alone = evaluated(model(late=2), dataset).terminations
    assert found["terminal.f1"]["3"].runs["late"].value == alone[3].f1.value
