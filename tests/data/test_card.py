"""The data card tells what is in the logs, in JSON and as a table."""

from __future__ import annotations

import io
import json

import numpy as np
from rich.console import Console

from worldmodel.data import ActionSpec, Trajectories, card, render


def logs(discrete: bool = False, rewards: bool = True) -> Trajectories:
    """Episodes of 2, 3 and 1 transitions; the second is terminal; padding must not be counted."""
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


def test_a_card_counts_episodes_ends_and_returns():
    made = card(logs())
    assert (made["episodes"], made["transitions"]) == (3, 6)
    assert (made["terminals"], made["timeouts"]) == (1, 2)
    assert made["lengths"] == {"min": 1, "median": 2.0, "max": 3}
    assert made["returns"] == {"min": -3.0, "mean": 5 / 3, "max": 6.0}
    assert card(logs(rewards=False))["returns"] is None


def test_a_card_describes_vectors_by_dimension_and_images_by_pixel():
    observations = card(logs())["observations"]
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


def test_a_card_leaves_the_padding_of_actions_out():
    continuous, discrete = card(logs())["action"], card(logs(discrete=True))["action"]
    assert (continuous["kind"], continuous["low"], continuous["high"]) == ("continuous", [-2], [4])
    assert (continuous["min"], continuous["max"]) == ([1], [2])
    assert discrete == {"kind": "discrete", "size": 5, "counts": [0, 3, 3, 0, 0]}


def test_a_card_survives_json_and_prints_as_a_table():
    for made in (card(logs()), card(logs(discrete=True, rewards=False))):
        restored = json.loads(json.dumps(made, allow_nan=False))
        assert restored == made
        text = io.StringIO()
        Console(file=text, width=120).print(render(restored))
        for words in ("logs.file", "3 (1 terminals, 2 time-outs)", "observation camera", "action"):
            assert words in text.getvalue()
