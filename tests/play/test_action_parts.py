"""Actions of several parts that are drawn, typed and shown."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from worldmodel.data import Episode, build_card, render, stack_episodes
from worldmodel.data.behaviours import BEHAVIOURS
from worldmodel.data.plots import over_time
from worldmodel.data.quality import quality_warnings
from worldmodel.data.spec import ActionSpec
from worldmodel.data.trajectories import Trajectories
from worldmodel.evaluation.action_sequences import candidates
from worldmodel.evaluation.returns import random_policy
from worldmodel.play.action_sources import action_format, parse_action, zero_action

PUSH = ActionSpec(False, 2, (-2.0, 1.0), (2.0, 3.0))
SPEC = ActionSpec.of_parts(
    {"gear": ActionSpec(True, 4), "light": ActionSpec(True, 2), "push": PUSH}
)


@pytest.fixture(scope="module")
def dataset() -> Trajectories:
    """Whose third gear is never taken."""
    rng = np.random.default_rng(0)
    push = SPEC.denormalize(SPEC.from_unit(rng.uniform(-1, 1, (40, 4))))
    push[:, 0] %= 3
    episode = Episode({"x": rng.normal(size=(41, 2))}, push, None, terminated=False)
    return stack_episodes([episode], "a car", SPEC)


def valid(actions: np.ndarray) -> bool:
    within = (actions >= SPEC.low) & (actions <= SPEC.high)
    return bool(within.all() and not SPEC.no_classes(actions).any())


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behavior_policies_take_every_class(name: str) -> None:
    actions = BEHAVIOURS[name](SPEC, np.random.default_rng(0))
    drawn = np.stack([next(actions) for _ in range(400)])
    assert drawn.shape == (400, 4) and valid(drawn)
    assert set(drawn[:, 0]) == {0, 1, 2, 3} and set(drawn[:, 1]) == {0, 1}


def test_random_policies_and_sequences_draw_every_class(dataset: Trajectories) -> None:
    act, memory, seeds = random_policy(dataset.spec()), None, np.arange(50)
    memory, actions = act(memory, {}, seeds, 0)
    assert actions.shape == (50, 4) and valid(actions) and set(actions[:, 0]) == {0, 1, 2, 3}
    plans = candidates(np.random.default_rng(0), SPEC, 8, 6)
    assert plans.shape == (8, 6, 4) and valid(plans)
    assert (plans[3] == plans[3, :1]).all()  # the fourth kind holds its action throughout


def test_actions_are_typed_as_a_number_for_each_column() -> None:
    last = zero_action(SPEC)
    assert last.tolist() == [0.0, 0.0, 0.0, 1.0] and last.dtype == np.float32
    assert action_format(SPEC) == "4 numbers: gear (4 classes), light (2 classes), push (2 numbers)"
    typed = parse_action("3, 1, 0.5, 9", SPEC, last)
    assert typed is not None and typed.tolist() == [3.0, 1.0, 0.5, 3.0]  # clipped to its bounds
    for line in ("4 0 0 1", "0.5 0 0 1", "0 -1 0 1", "0 0 0", "a 0 0 1"):
        assert parse_action(line, SPEC, last) is None


def test_cards_and_plots_show_numbers_and_choices(dataset: Trajectories) -> None:
    card = build_card(dataset)["action"]
    assert (card["kind"], card["size"]) == ("mixed", 4) and sum(card["choices"]["light"]) == 40
    counts = np.bincount(dataset.actions[:40, 0].astype(int), minlength=4)
    assert card["choices"]["gear"] == counts.tolist() and counts[3] == 0
    assert card["numbers"]["columns"] == ["push 0", "push 1"]
    np.testing.assert_allclose(card["numbers"]["mean"], dataset.actions[:40, 2:].mean(0), rtol=1e-5)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(render(build_card(dataset)))
    shown = captured.get()
    for words in ("action: continuous (2)", "push 1", "action: choices (2)", "gear", "light"):
        assert words in shown
    found = quality_warnings(build_card(dataset), {})
    assert any("action gear, class 3: never taken" in text for text in found)
    figure = over_time(dataset, [(0, "episode 0")], "a car", {})
    titles = {axes.get_ylabel() for axes in figure.axes}
    assert {"action\ngear", "action\nlight", "action\npush 0", "action\npush 1"} <= titles


def test_whole_numbers_in_columns_may_be_classes() -> None:
    whole = np.random.default_rng(0).integers(0, [5, 2], (40, 2)).astype(float)
    episode = Episode({"x": np.zeros((41, 1))}, whole, None, terminated=False)
    found = quality_warnings(build_card(stack_episodes([episode], "a table")), {})
    assert any("integers from 0 to 4" in text and "data.classes=[5,2]" in text for text in found)
