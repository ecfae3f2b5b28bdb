"""Wrong calls of the Python interface are refused in words, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data import (
    ActionSpec,
    Episode,
    build_card,
    load,
    render,
    split,
    stack_episodes,
    validate,
    write_rlds,
)
from worldmodel.data.compatibility import conform_to_spec
from worldmodel.data.loader import make_loader, pad_episodes
from worldmodel.data.readers.npz import NPZData
from worldmodel.errors import UserError


def episode(**changes: Any) -> Episode:
    valid: dict[str, Any] = {
        "observations": {"x": np.zeros((4, 2))},
        "actions": np.ones((3, 1)),
        "rewards": None,
    }
    return Episode(**(valid | {"terminated": True} | changes))


def stacked(**changes: Any) -> Any:
    return stack_episodes([episode(**changes)], "logs")


DATA: Any = stack_episodes([episode()] * 3, "logs")
ANY: Any = None  # of a type that no signature accepts

WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "load nothing": (lambda: load(ANY), "options: None; accepted: the options of a format"),
    "load a path": (lambda: load("a.npz"), "options: 'a.npz'; accepted"),
    "load a class": (lambda: load(NPZData), "accepted: the options of a format"),
    "a path of numbers": (lambda: load(NPZData(path=3)), "data.path=3: accepts text"),
    "stack nothing": (lambda: stack_episodes(ANY, "x"), "episodes: NoneType; accepted: several"),
    "stack dicts": (lambda: stack_episodes([ANY], "x"), "episode 0: NoneType; accepted: an Epis"),
    "no source": (lambda: stack_episodes([episode()], ANY), "source is of type NoneType"),
    "a size for a spec": (lambda: stack_episodes([episode()], "x", 3), "action_spec: int"),
    "another size": (
        lambda: stack_episodes([episode()], "x", ActionSpec(False, 2, (-1.0,) * 2, (1.0,) * 2)),
        "x: actions have shape (1,); accepted: (2,)",
    ),
    "an array": (lambda: stacked(observations=np.zeros((4, 2))), "observations: ndarray; accepted"),
    "a number as key": (lambda: stacked(observations={1: np.zeros(4)}), "a dict of arrays by name"),
    "ends by step": (lambda: stacked(terminated=np.zeros(3)), "terminated: shape (3,); accepted"),
    "no actions": (lambda: stacked(actions=None), "action is object; accepted: numbers"),
    "complex numbers": (lambda: stacked(rewards=np.ones(3) * 1j), "reward is complex128"),
    "a short time": (lambda: stacked(time=[0, 1]), "time has shape (2,); accepted: (4,)"),
    "time as text": (lambda: stacked(time=["a"] * 4), "time is not numeric; accepted: seconds"),
    "time stamps as classes": (
        lambda: stacked(actions=np.array([1, 2, 1_700_000_000])),
        "actions are integers (1 to 1,700,000,000), which may be classes or numbers; accepted",
    ),
    "classes beyond 32 bits": (
        lambda: stacked(actions=np.array([1, 2, 2**32 + 1])),
        "action is 4,294,967,297 at step 2; accepted: classes 0 to 65,535, or floats",
    ),
    "negative classes": (
        lambda: stacked(actions=np.array([1, 2, -3])),
        "integers (-3 to 2), which may be classes or numbers; accepted: data.classes=[0] for",
    ),
    "split nothing": (lambda: split(ANY, 0.2), "dataset: NoneType; accepted: Trajectories"),
    "all held out": (lambda: split(DATA, 1), "holdout: 1; accepted: 0 to 0.9"),
    "NaN held out": (lambda: split(DATA, float("nan")), "holdout: nan; accepted: 0 to 0.9"),
    "a negative seed": (lambda: split(DATA, 0.2, -1), "seed: -1; accepted: an integer, at least 0"),
    "an absent episode": (lambda: DATA.select(np.array([3])), "integers (n,) from 0 to 2"),
    "episodes from the end": (
        lambda: DATA.select(np.array([-1])),
        "episodes: int64 (1,); accepted",
    ),
    "no episodes": (lambda: DATA.select([]), "episodes: float64 (0,); accepted: integers"),
    "a mask": (lambda: DATA.select(np.ones(3, bool)), "episodes: bool (3,); accepted: integers"),
    "scaling of nothing": (lambda: DATA.spec({"y": "none"}), "accepted: a normalization of x"),
    "an unknown scaling": (lambda: DATA.spec({"x": "z"}), "accepted: none, standardize, min_max"),
    "a card of nothing": (lambda: build_card(ANY), "dataset: NoneType; accepted: Trajectories"),
    "a window of nothing": (lambda: build_card(DATA, [0]), "windows: 0; accepted: an integer, at"),
    "one window": (lambda: build_card(DATA, ANY), "windows: NoneType; accepted: integers"),
    "no card": (lambda: render({}), "card: dict; accepted: what `build_card` returns"),
    "check nothing": (lambda: validate(ANY), "dataset: NoneType; accepted: Trajectories"),
    "write nowhere": (lambda: write_rlds(DATA, ANY, "x"), "folder, name: None, 'x'; accepted"),
    "write no name": (lambda: write_rlds(DATA, Path("x"), ANY), "accepted: a path and a name"),
    "a batch of nothing": (lambda: make_loader(DATA, 0, 4, 0), "batch_size: 0; accepted"),
    "half a step": (lambda: make_loader(DATA, 4, 2.5, 0), "length: 2.5; accepted"),
    "another loader": (lambda: make_loader(DATA, 4, 2, 0, "gpu"), "accepted: auto, device, host"),
    "padded to nothing": (lambda: pad_episodes(DATA, 0), "length: 0; accepted: an integer, at"),
    "no spec": (lambda: conform_to_spec(DATA, ANY), "spec: NoneType; accepted: a DataSpec"),
    "actions of another size": (
        lambda: DATA.action_spec.normalize(np.zeros((3, 4))),
        "action: shape (3, 4); accepted: (..., 1)",
    ),
}


@pytest.mark.parametrize("call", WRONG)
def test_a_wrong_call_is_refused(call: str) -> None:
    action, words = WRONG[call]
    with pytest.raises(UserError, match=re.escape(words)):
        action()


def test_names_of_observations_stay_as_they_are() -> None:
    odd = ["it's", '"', "a\\b", "\x1b[31m", "\n", "observation 'x'", ""]
    data = stack_episodes([episode(observations={k: np.zeros((4, 1)) for k in odd})], "logs")
    assert list(data.observations) == odd
