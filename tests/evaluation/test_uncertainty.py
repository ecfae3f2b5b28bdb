"""An ensemble's uncertainty against its error, in a world where both are known."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import context_of
from rich.console import Console

from worldmodel.config import EvaluationOptions
from worldmodel.evaluation.evaluator import evaluate, render
from worldmodel.evaluation.report import page
from worldmodel.evaluation.results import markdown, to_json
from worldmodel.evaluation.sections.uncertainty import (
    Uncertainty,
    is_ensemble,
    uncertainties_and_errors,
)
from worldmodel.imagination import UNCERTAINTIES
from worldmodel.nn.distributions import Bernoulli, Normal, ScalarMSE

OPTIONS = EvaluationOptions([1, 5], 4, 3, 2, resamples=100)
WRONG = 0.05  # the share of x by which the model errs in a step


@pytest.fixture(scope="module")
def dataset(worlds):
    return worlds.linear_dataset([40, 4, 60, 25])


@pytest.fixture(scope="module")
def model(worlds, dataset):
    std = dataset.spec().observations["position"].std

    class Members(worlds.Linear):
        """Errs by WRONG x; two members differ by x, and believe in noise where there is no error.

        The reward of every step is 1, and is known.
        """

        def step(self, state, action, key):
            return super().step(state, action, key) + WRONG * state

        def reward(self, state):
            return ScalarMSE(jnp.ones(state.shape[:-1]), 1.0)

        def terminal(self, state):
            return Bernoulli(jnp.full(state.shape[:-1], -jnp.inf))

        def predict_members(self, state, action):
            off = state / jnp.asarray(std)
            location = jnp.stack([off, -off]) / 2
            size = jnp.linalg.norm(off, axis=-1, keepdims=True)
            location = jnp.concatenate([location, jnp.zeros_like(location[..., :1])], -1)
            return Normal(location, jnp.broadcast_to(1 / size, location.shape))

    return Members()


@pytest.fixture(scope="module")
def results(model, dataset):
    return evaluate(context_of(model, dataset, OPTIONS))


def test_the_measures_that_are_right_agree_and_those_that_are_wrong_do_not(results):
    """After one step the error is WRONG |x| / std; the members differ by |x| / std; the noise that
    they believe in is its inverse."""
    for name in ("max_pairwise", "max_deviation", "epistemic_std"):
        agreement = results[Uncertainty].quality[name][1]
        assert agreement.spearman.value == pytest.approx(1.0)
        assert agreement.pearson.value == pytest.approx(1.0, abs=1e-5)
        assert agreement.ause.value == pytest.approx(0.0, abs=1e-6)
    aleatoric = results[Uncertainty].quality["max_aleatoric"][1]
    assert aleatoric.spearman.value == pytest.approx(-1.0)
    assert aleatoric.pearson.value < 0 and aleatoric.ause.value > 1


def test_the_error_and_the_sum_of_uncertainty_are_those_of_the_rollout(model, dataset):
    context = context_of(model, dataset, OPTIONS)
    starts, found, error = uncertainties_and_errors(context)
    std = np.asarray(context.spec.observations["position"].std)
    at = np.flatnonzero(starts.remaining_steps >= 5)[7]
    row = starts.rows[at]
    x = real = dataset.observations["position"][row]
    differ = 0.0
    for step in range(5):
        differ += np.linalg.norm(x / std)
        move = 0.3 * dataset.actions[row + step]
        x, real = (0.9 + WRONG) * x + move, 0.9 * real + move
        np.testing.assert_allclose(found["max_pairwise"][at, step], differ, rtol=1e-4)
        np.testing.assert_allclose(error[at, step], np.linalg.norm((x - real) / std), rtol=1e-3)


def test_reward_counts_in_the_error(model, dataset):
    """It is predicted as 1; were it 3 at a spread of 2, that is 1 more dimension, off by 1."""
    spec, other = dataset.spec(), dataclasses.replace(dataset, rewards=3 * dataset.rewards)
    paid = dataclasses.replace(spec, reward_mean_std=(0.0, 2.0))

    def errors(model, spec, data):
        return uncertainties_and_errors(context_of(model, data, OPTIONS, spec))[2]

    error, more = errors(model, spec, dataset), errors(model, paid, other)
    np.testing.assert_allclose(more**2, error**2 + 1, rtol=1e-4)

    class Unpaid(type(model)):
        def reward(self, state):
            raise AssertionError("no reward")

    none, bare = (
        dataclasses.replace(paid, has_reward=False),
        dataclasses.replace(other, rewards=None),
    )
    for evaluated in ((none, other), (paid, bare)):
        np.testing.assert_allclose(errors(Unpaid(), *evaluated), error, rtol=1e-6)


def test_an_observation_may_be_called_reward(model, dataset):
    named = {"reward": dataset.observations["position"]}

    class Named(type(model)):
        def observe(self, window, key, state=None, action=None):
            return window.observation["reward"]

        def observation(self, state):
            return {"reward": super().observation(state)["position"]}

    _, _, error = uncertainties_and_errors(context_of(model, dataset, OPTIONS))
    context = context_of(Named(), dataclasses.replace(dataset, observations=named), OPTIONS)
    np.testing.assert_allclose(uncertainties_and_errors(context)[2], error, rtol=1e-6)


def test_an_episode_too_short_for_five_steps_counts_at_one(results, dataset):
    of = results[Uncertainty].quality["ensemble_std"]
    assert of[1].pearson.n > of[5].pearson.n > 0
    assert "in 4 held-out episodes" in of[1].pearson.method
    assert "in 3 held-out episodes" in of[5].pearson.method


def test_all_measures_are_written_with_n_and_interval(results):
    saved = json.loads(json.dumps(to_json(results), allow_nan=False))["uncertainty"]
    assert list(saved) == list(UNCERTAINTIES)
    for by_steps in saved.values():
        assert by_steps.keys() == {"1", "5"}
        for numbers in by_steps.values():
            assert numbers.keys() == {"spearman", "pearson", "ause"}
            for number in numbers.values():
                assert number.keys() == {
                    "value",
                    "low",
                    "high",
                    "n",
                    "sample_unit",
                    "episodes",
                    "method",
                }
                assert number["low"] <= number["value"] + 1e-9 and number["n"] > 10
    text, html = markdown(results), page(results)
    cell = results[Uncertainty].quality["ensemble_std"][5].spearman.brief
    assert f"| ensemble std | {cell} |" in text
    assert "error after 5 steps" in text and "<h2>Uncertainty</h2>" in html
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(results))
    shown = console.export_text()
    assert cell in shown and max(map(len, shown.splitlines())) <= 100


def test_a_model_without_two_members_shows_none(worlds, model, dataset):
    spec = dataset.spec()
    assert is_ensemble(model, spec) and not is_ensemble(worlds.Linear(), spec)

    class Alone(type(model)):
        def predict_members(self, state, action):
            return jax.tree.map(lambda x: x[:1], super().predict_members(state, action))

    assert not is_ensemble(Alone(), spec)
    results = evaluate(context_of(worlds.Linear(), dataset, OPTIONS))
    assert "uncertainty" not in results.sections and to_json(results)["uncertainty"] is None
    for text in (page(results), markdown(results)):
        assert "ncertainty" not in text
