"""Which actions are classes and which are numbers: as declared, as the environment says, or as the
data tell; never in silence where they do not.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from worldmodel.data import Episode, load, stack_episodes, write_rlds
from worldmodel.data.action_inference import close_bounds, declared_actions
from worldmodel.data.readers.npz import NPZData
from worldmodel.data.readers.table import TableData
from worldmodel.data.readers.tfds import TFDSData
from worldmodel.data.spec import ActionSpec
from worldmodel.errors import ConfigError, DataError

ROWS = 12
FORCE = ActionSpec(False, 1, (0.0,), (1.0,))
GEARS = ActionSpec.of_parts({"gear": ActionSpec(True, 5), "force": FORCE})


def log(folder: Path, actions: Any, **options: Any) -> NPZData:
    actions = np.asarray(actions)
    np.savez(folder / "log.npz", observations=np.zeros((len(actions) + 1, 2)), actions=actions)
    return NPZData(path=str(folder / "log.npz"), **options)


def integers(high: int, columns: int = 1, low: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(low, high, (ROWS, columns))
    drawn[0], drawn[1] = low, high - 1
    return drawn


def test_several_integers_are_asked_about(tmp_path: Path) -> None:
    actions = np.concatenate([integers(5), integers(2)], 1)
    words = "integers in 2 columns (0 to 4, 0 to 1), which may be classes or numbers; accepted: "
    words += "data.classes=[5,2] for classes, data.classes=[0,0] for numbers"
    with pytest.raises(DataError, match=re.escape(words)):
        load(log(tmp_path, actions))
    several = load(log(tmp_path, actions, classes=[5, 2]))
    assert several.action_spec == ActionSpec.of_columns([5, 2], [0, 0], [4, 1])
    np.testing.assert_array_equal(several.actions[:ROWS], actions.astype(np.float32))
    numbers = load(log(tmp_path, actions, classes=[0, 0])).action_spec
    assert numbers == ActionSpec(False, 2, (0.0, 0.0), (4.0, 1.0))
    bounds = {"action_low": [-1.0, 0.0], "action_high": [9.0, 1.0]}
    some = load(log(tmp_path, actions, classes=[0, 2], **bounds))
    assert some.action_spec.classes == (0, 2) and some.action_spec.low == (-1.0, 0.0)


def test_counts_of_a_converter_are_not_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = integers(30_000, low=-7).astype(np.int16)
    with caplog.at_level(logging.WARNING):
        spec = load(log(tmp_path, counts)).action_spec
    assert "integers from -7 to 29999" in caplog.text and "read as numbers" in caplog.text
    assert spec == load(log(tmp_path, counts, classes=[0])).action_spec
    assert spec == ActionSpec(False, 1, (-7.0,), (29_999.0,))
    with pytest.raises(DataError, match="integers .-7 to 29,999.*data.classes=.0. for numbers"):
        load(log(tmp_path, counts[:, 0]))
    limits = {"action_low": [-32_768.0], "action_high": [32_767.0]}
    assert load(log(tmp_path, counts, **limits)).action_spec.low == (-32_768.0,)
    with pytest.raises(DataError, match="data.classes=.300. for classes, data.classes=.0. for"):
        load(log(tmp_path, integers(300)[:, 0]))
    for logged in (integers(300), integers(300)[:, 0]):
        known = load(log(tmp_path, logged, classes=[300]))
        assert known.action_spec == ActionSpec(True, 300) and known.actions.dtype == np.int32


def test_integers_that_cannot_be_classes_are_numbers_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        spec = load(log(tmp_path, integers(3, 2, low=-3))).action_spec
    assert spec == ActionSpec(False, 2, (-3.0, -3.0), (2.0, 2.0))
    assert "integers from -3 to 2 in 2 columns, read as numbers" in caplog.text


def test_columns_of_truth_values_are_choices_among_two(tmp_path: Path) -> None:
    spec = load(log(tmp_path, integers(2, 3).astype(bool))).action_spec
    assert spec.classes == (2, 2, 2)
    assert load(log(tmp_path, integers(2).astype(bool))).action_spec == ActionSpec(True, 2)


def test_the_environment_says_how_many_classes_there_are(tmp_path: Path) -> None:
    zeros = np.zeros(ROWS, int)
    assert load(log(tmp_path, zeros)).action_spec == ActionSpec(True, 1)
    known = load(log(tmp_path, zeros, environment="CartPole-v1")).action_spec
    assert known == ActionSpec(True, 2)
    # Where it cannot be created or has other actions, the data say; its evaluation reports it.
    for name in ("Missing-v0", "Pendulum-v1"):
        assert load(log(tmp_path, zeros, environment=name)).action_spec == ActionSpec(True, 1)
    floats = np.linspace(-1, 1, ROWS)[:, None]
    bounded = load(log(tmp_path, floats, environment="Pendulum-v1")).action_spec
    assert bounded.high == (1.0,)  # as logged


def test_integers_beyond_int32_are_refused_with_their_step(tmp_path: Path) -> None:
    actions = np.array([0] * 5 + [2**32] + [1] * 6)
    words = "episode 0: action is 4,294,967,296 at step 5; accepted: classes 0 to 65,535, or floats"
    with pytest.raises(DataError, match=re.escape(words)):
        load(log(tmp_path, actions))


def test_values_are_checked_by_part(tmp_path: Path) -> None:
    actions = np.stack([np.arange(ROWS) % 5, np.linspace(0, 1, ROWS)], 1)
    episode = Episode({"x": np.zeros((ROWS + 1, 1))}, actions, None, False)
    assert stack_episodes([episode], "car", GEARS).action_spec == GEARS
    with pytest.raises(DataError, match="action '0' is not a class: .*step 4.*accepted: 0 to 3"):
        load(log(tmp_path, actions, classes=[4, 0]))
    with pytest.raises(DataError, match="action '0' is not a class: .*step 1; .*"):
        load(log(tmp_path, actions + [[0.5, 0.0]], classes=[6, 0]))


def test_the_native_form_keeps_the_parts(tmp_path: Path) -> None:
    actions = np.stack([np.arange(ROWS) % 5, np.linspace(0, 1, ROWS)], 1)
    episode = Episode({"x": np.zeros((ROWS + 1, 1))}, actions, None, False)
    write_rlds(stack_episodes([episode], "car", GEARS), tmp_path / "car", "car")
    again = load(TFDSData(path=str(tmp_path / "car")))
    assert again.action_spec == GEARS
    np.testing.assert_array_equal(again.actions[:ROWS], actions.astype(np.float32))


def test_declared_bounds_keep_the_parts_of_the_source() -> None:
    options = NPZData(action_low=[0.0, -2.0], action_high=[4.0, 2.0])
    bounded = declared_actions(options, GEARS)
    assert bounded is not None and bounded.low == (0.0, -2.0) and bounded.classes == (5, 0)
    assert declared_actions(NPZData(), GEARS) == GEARS
    with pytest.raises(DataError, match="action_low has 1 numbers; accepted: 2"):
        declared_actions(NPZData(action_low=[0.0], action_high=[1.0]), GEARS)


@pytest.mark.parametrize(
    ("low", "high", "closed"),
    [
        (-np.inf, 2.0, (-1.0, 2.0)),
        (-5.0, np.inf, (-5.0, 1.0)),
        (-np.inf, np.inf, (-1.0, 1.0)),
        (3.0, np.inf, (3.0, 4.0)),  # all below the bound that is declared
        (-np.inf, -2.0, (-3.0, -2.0)),
    ],
)
def test_infinite_bounds_are_taken_from_the_data(low: float, high: float, closed: Any) -> None:
    actions = np.array([[-1.0], [1.0], [9.0]], np.float32)  # the last step is padding
    spec = close_bounds(ActionSpec(False, 1, (low,), (high,)), actions, np.array([3]))
    assert (spec.low[0], spec.high[0]) == closed


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    actions = np.zeros((ROWS, 2))
    bounds = {"action_low": [0.0, 0.0], "action_high": [1.0, 1.0]}
    for options, words in (
        ({"classes": [2], **bounds}, "data.classes has 1"),
        ({"classes": [-1, 2]}, "each 0 to 65536"),
    ):
        with pytest.raises(ConfigError, match=words):
            load(log(tmp_path, actions, **options))
    with pytest.raises(DataError, match=re.escape("shape (2,); accepted: (3,), as declared")):
        load(log(tmp_path, actions, classes=[2, 2, 2]))


# ------------------------------------------------------------------------ classes among the floats


def test_one_hot_floats_are_told_and_read_as_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = integers(4)[:, 0]
    options = log(tmp_path, np.eye(4, dtype=np.float32)[classes])
    assert load(options).action_spec.size == 4
    assert "one-hot in all steps" in caplog.text and "data.classes=[4]" in caplog.text
    caplog.clear()
    options.classes = [4]
    logs = load(options)
    assert logs.action_spec == ActionSpec(True, 4)
    np.testing.assert_array_equal(logs.actions[:-1], classes)
    assert "one-hot" not in caplog.text


@pytest.mark.parametrize("kind", [np.int64, bool])
def test_small_integers_in_a_table_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    drawn = integers(2)[:, 0].astype(kind)
    file = tmp_path / "log.parquet"
    parquet.write_table(pa.table({"x": np.arange(ROWS) / 3, "u": drawn}), file)
    options = TableData(path=str(file), observations=["x"], actions=["u"])
    assert not load(options).action_spec.discrete
    assert "set data.classes=[2]; data.classes=[0] says" in caplog.text
    caplog.clear()
    options.classes = [2]
    assert load(options).action_spec.discrete
    options.classes = [0]
    assert not load(options).action_spec.discrete
    assert "data.classes" not in caplog.text


def test_integers_and_floats_in_turn_are_told() -> None:
    made = [
        Episode({"x": np.zeros((4, 1))}, actions, None, terminated=False)
        for actions in (np.zeros(3, int), np.zeros(3))
    ]
    with pytest.raises(DataError, match="action holds floats, episode 0 single integers"):
        stack_episodes(made, "mixed")


def test_one_class_of_several_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "cartpole.npz")
    rows = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(path, observations=rows, actions=np.zeros(8, int), rewards=np.ones(8))
    assert load(NPZData(path=path)).action_spec == ActionSpec(True, 1)
    assert "always class 0. If there are others, set data.classes" in caplog.text
    caplog.clear()
    assert load(NPZData(path=path, classes=[2])).action_spec == ActionSpec(True, 2)
    assert "always class 0" not in caplog.text
