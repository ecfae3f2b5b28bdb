"""Where the observation after the last action was not logged, its placeholder has no effect, while
the last reward and the end of the episode are learned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from families import KEY, assert_close, max_difference, modified, on, timestep

from worldmodel.data.windows import Window

FAST = ("rssm", "mlp", "ensemble", "observed")  # families that are tested in every run
LAST = {0: 3, 1: 5}  # window -> the last step of its episode, which is terminal


def unobserved(window: Window) -> Window:
    """The first window is padded after its last step; the second ends with it."""
    observed = np.ones(window.shape, bool)
    for row, step in LAST.items():
        observed[row, step:] = False
        assert window.is_last[row, step] and window.is_terminal[row, step]
    return replace(window, observed=observed)


def with_other_placeholders(window: Window) -> Window:
    other = modified(window, slice(None), ("observation",))

    def merged(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(window.observed.reshape(*window.shape, *[1] * (x.ndim - 2)), x, y)

    observation = jax.tree.map(merged, window.observation, other.observation)
    return replace(window, observation=observation)


@on("vector", "discrete", "image", "mixed", always=("vector",), families=FAST, only="trainable")
def test_a_placeholder_is_not_learned_from(subject: Any) -> None:
    window = unobserved(subject.window)
    (loss, (metrics, _)), gradient = subject.learn(window, KEY)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, metrics, gradient)))
    other = subject.learn(with_other_placeholders(window), KEY)
    assert_close((loss, metrics, gradient), (other[0][0], other[0][1][0], other[1]))
    assert loss != subject.learn(subject.window, KEY)[0][0]


@on("vector", "discrete", "image", always=("vector",), families=FAST)
def test_a_placeholder_does_not_correct_the_filter(subject: Any) -> None:
    """Its state is predicted, and the states before it are those of the filter."""
    if not subject.facts.environment:
        window = unobserved(subject.window)
    else:  # its episodes do not end in the window
        observed = np.arange(subject.window.shape[1]) < 5
        window = replace(subject.window, observed=np.broadcast_to(observed, subject.window.shape))
    states = subject.observe(window, KEY)
    valid, observed = window.mask, window.mask & window.observed
    other = subject.observe(with_other_placeholders(window), KEY)
    assert_close(*(jax.tree.map(lambda x: x[valid], s) for s in (states, other)))
    filtered = subject.observe(subject.window, KEY)
    kept = (jax.tree.map(lambda x: x[observed], s) for s in (states, filtered))
    assert max_difference(*kept) == 0
    whole = replace(window, observed=np.ones_like(window.observed))
    assert_close(subject.observe(whole, KEY), filtered)


@on("vector", "discrete", always=("vector",), families=FAST, only="trainable")
def test_the_last_reward_and_the_end_are_learned(subject: Any) -> None:
    window = unobserved(subject.window)
    reference = subject.learn(window, KEY)[0][0]
    rewarded, not_ended = (jax.tree.map(np.array, window) for _ in range(2))
    for row, step in LAST.items():
        rewarded.reward[row, step - 1] += 1.0
        not_ended.is_terminal[row, step] = False
    for other in (rewarded, not_ended):
        assert abs(subject.learn(other, KEY)[0][0] - reference) > 1e-5 * abs(reference)


@on("vector", always=("vector",), families=FAST, only="trainable")
def test_marking_every_step_as_observed_changes_nothing(subject: Any) -> None:
    whole = replace(subject.window, observed=np.ones(subject.window.shape, bool))
    (loss, (metrics, _)), gradient = subject.learn(whole, KEY)
    expected = subject.learn(subject.window, KEY)
    assert_close((loss, metrics, gradient), (expected[0][0], expected[0][1][0], expected[1]))


@on("vector", only="has_dynamics", always=("vector",), families=FAST)
def test_a_record_that_is_filtered_in_pieces_is_predicted_from_the_piece_before(
    subject: Any,
) -> None:
    """The step without an observation may be the first of its piece."""
    window = timestep(subject.window, slice(0, 4))
    observed = np.ones(window.shape, bool)
    observed[:, 3] = False
    window = replace(window, observed=observed)
    before = timestep(subject.observe(timestep(window, slice(0, 3)), KEY), 2)
    piece = subject.observe(timestep(window, slice(3, 4)), KEY, before, window.action[:, 2])
    key = jax.random.fold_in(KEY, 0x0B5E)
    predicted = subject.step(before, window.action[:, 2], key)
    features = subject.compiled(lambda model, state: model.features(state))
    assert_close(features(timestep(piece, 0)), features(predicted))
