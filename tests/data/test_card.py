"""The data card summarizes a dataset as JSON and as tables."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from worldmodel.data import ActionSpec, Trajectories, build_card, render
from worldmodel.data.moments import moments


def logs(discrete: bool = False, rewards: bool = True) -> Trajectories:
    """Episodes of 2, 3 and 1 transitions; the second is terminal."""
    padding = np.array([2, 6, 8])
    actions = np.array([1, 2, 3, 1, 2, 2, 3, 1, 3], np.float32)[:, None]
    actions[padding] = 0
    return Trajectories(
        observations={
            "x": np.stack([np.arange(9), -np.arange(9)], axis=1).astype(np.float32),
            "camera": np.repeat(np.array([10, 30], np.uint8), [18, 18]).reshape(9, 2, 2, 1),
        },
        actions=actions[:, 0].astype(np.int32) if discrete else actions,
        rewards=np.array([1, 1, 0, 2, 2, 2, 0, -3, 0], np.float32) if rewards else None,
        lengths=np.array([3, 4, 2]),
        terminated=np.array([False, True, False]),
        action_spec=ActionSpec(True, 5) if discrete else ActionSpec(False, 1, (-2.0,), (4.0,)),
        source="logs.file",
    )


def rounded(value: Any) -> Any:
    """Rounds numbers to twelve digits: sums over other chunks differ beyond these."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 12) if isinstance(value, float) else value


def test_a_card_counts_episodes_and_returns():
    card = build_card(logs())
    assert (card["episodes"], card["transitions"]) == (3, 6)
    assert (card["terminals"], card["timeouts"]) == (1, 2)
    assert card["lengths"] == {"min": 1, "median": 2.0, "max": 3}
    assert card["returns"] == {"min": -3.0, "mean": 5 / 3, "max": 6.0}
    assert build_card(logs(rewards=False))["returns"] is None


def test_a_card_describes_vectors_by_dimension_and_images_by_pixel():
    observations = build_card(logs())["observations"]
    x, camera = observations["x"], observations["camera"]
    assert (x["shape"], x["dtype"]) == ([2], "float32")
    assert (x["min"], x["max"], x["mean"]) == ([0, -8], [8, 0], [4, -4])
    np.testing.assert_allclose(x["std"], np.arange(9).std())
    assert camera == {
        "shape": [2, 2, 1],
        "dtype": "uint8",
        "min": 10,
        "max": 30,
        "mean": 20,
        "std": 10,
    }


def test_statistics_of_actions_exclude_padding():
    continuous, discrete = build_card(logs())["action"], build_card(logs(discrete=True))["action"]
    assert (continuous["kind"], continuous["low"], continuous["high"]) == ("continuous", [-2], [4])
    assert (continuous["min"], continuous["max"]) == ([1], [2])
    assert discrete == {"kind": "discrete", "size": 5, "counts": [0, 3, 3, 0, 0]}


def test_a_card_survives_json_and_renders_as_tables():
    for card in (build_card(logs()), build_card(logs(discrete=True, rewards=False))):
        restored = json.loads(json.dumps(card, allow_nan=False))
        assert restored == card
        text = io.StringIO()
        Console(file=text, width=120).print(render(restored))
        for words in ("logs.file", "3 (1 terminal, 2 truncated)", "observation camera", "action"):
            assert words in text.getvalue()


def test_windows_are_counted_within_episodes():
    counted = build_card(logs(), windows=(3, 5))["windows"]
    # Episodes of 3, 4 and 2 steps: one window of 3 steps in the first, two in the second.
    assert counted[0] == {
        "length": 3,
        "episode_fraction": 2 / 3,
        "step_fraction": 7 / 9,
        "count": 3,
    }
    assert counted[1] == {
        "length": 5,
        "episode_fraction": 0,
        "step_fraction": 0,
        "count": 0,
    }


def test_repeated_observations_are_counted_within_episodes():
    still = dataclasses.replace(
        logs(), observations={"x": np.array([0, 0, 1, 1, 2, 2, 3, 3, 3], np.float32)[:, None]}
    )
    # Three of six transitions repeat: 0 -> 0, 2 -> 2, 3 -> 3; 1 -> 1 is between two episodes.
    assert build_card(still)["repeated_observations"] == 3 / 6


def test_actions_at_a_bound_are_counted_without_padding():
    whole = dataclasses.replace(logs(), action_spec=ActionSpec(False, 1, (0.0,), (2.0,)))
    # The actions are 1 2 | 1 2 2 | 1; the zeros of the padding, at the lower bound, do not count.
    action = build_card(dataclasses.replace(whole, actions=np.minimum(whole.actions, 2)))["action"]
    assert action["at_bounds"] == [3 / 6]
    assert action["integer_valued"]


def test_monotonic_columns_are_detected():
    x = build_card(logs())["observations"]["x"]
    assert x["monotonic"] == [True, False]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_the_card_of_a_selection_is_that_of_its_episodes_alone(episodes: list[int]):
    chosen = logs().select(np.array(episodes))
    assert rounded(build_card(chosen)) == rounded(build_card(chosen.compact()))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.sampled_from([0.0, 1e6, -1e9]),
    st.integers(0, 1000),
)
def test_moments_of_chunks_are_those_of_the_whole(sizes: list[int], far: float, seed: int):
    rows = far + np.random.default_rng(seed).normal(size=(sum(sizes), 3))
    result = moments(np.split(rows, np.cumsum(sizes)[:-1]))
    np.testing.assert_allclose(result.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.std, rows.std(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal((result.low, result.high), (rows.min(0), rows.max(0)))
