"""Kinds of log x formats: each cell holds the right transitions, or words that say what to do."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_formats import FURTHER_WRITERS, WRITERS, Log, check_transitions, system_log

from worldmodel.data import load
from worldmodel.errors import DataError

MARKED = ("npz", "hdf5", "csv", "parquet", "zarr")  # where fields mark the ends of episodes


def marked(log: Log) -> Log:
    """The log with the marks of terminal and of truncated rows."""
    fields = []
    for number, (length, terminal) in enumerate(zip(log.lengths, log.terminal, strict=True)):
        last = np.arange(length) == length - 1
        marks = {"terminals": last & terminal, "timeouts": last & (not terminal)}
        fields.append((log.fields[number] if log.fields else {}) | marks)
    return replace(log, fields=fields)


@pytest.mark.parametrize("written_as", WRITERS | FURTHER_WRITERS)
@settings(max_examples=4, deadline=None)
@given(
    episodes=st.lists(st.tuples(st.integers(2, 9), st.booleans()), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_a_random_log_is_read_value_by_value(
    written_as: str, episodes: list[tuple[int, bool]], seed: int
) -> None:
    log = system_log(*zip(*episodes, strict=True), seed=seed)
    log = marked(log) if written_as in MARKED else log
    with tempfile.TemporaryDirectory() as folder:
        write = (WRITERS | FURTHER_WRITERS)[written_as]
        check_transitions(load(write(log, Path(folder))), log)


# ------------------------------------------------------------------------------- kinds of odd logs

LENGTHS, TERMINAL = (40, 30, 50), (True, False, True)
ARCHIVES, TABLES = ("npz", "hdf5"), ("csv", "parquet")


def with_fields(**fields: Callable[[np.ndarray, bool], np.ndarray]) -> Log:
    """A log with fields of `function(last, terminal)`; `last` (T,) is true in the last row."""
    log = system_log(LENGTHS, TERMINAL)
    for length, terminal in zip(log.lengths, log.terminal, strict=True):
        last = np.arange(length) == length - 1
        log.fields.append({name: make(last, terminal) for name, make in fields.items()})
    return log


def with_actions(change: Callable[[np.ndarray], np.ndarray]) -> Log:
    log = system_log(LENGTHS, TERMINAL)
    return replace(log, actions=[change(actions) for actions in log.actions])


def with_observation(name: str, make: Callable[[int], np.ndarray]) -> Log:
    log = system_log(LENGTHS, TERMINAL)
    for observed, length in zip(log.observations, log.lengths, strict=True):
        observed[name] = make(length + 1)
    return log


def shifted_next() -> Log:
    """Next observations made as observations[1:], so that each episode ends in the next one."""
    log = system_log(LENGTHS, TERMINAL)
    rows = np.concatenate([o["state"][:-1] for o in log.observations])
    following = np.split(np.concatenate([rows[1:], rows[-1:]]), np.cumsum(LENGTHS)[:-1])
    return replace(log, fields=[{"next_observations": values} for values in following])


def far_away() -> Log:
    """The system 5e6 from its origin, where float32 resolves 0.5 and steps are 0.1 at most."""
    log = system_log(LENGTHS, TERMINAL)
    for observed in log.observations:
        observed["state"][:, 0] += 5e6
    return log


def led_here() -> Log:
    """Each action stands in the row that it led to."""
    log = system_log((200, 150), (False, False))
    return replace(log, actions=[np.roll(actions, 1, 0) for actions in log.actions])


def pixels(count: int) -> np.ndarray:
    """Frames of one level each, since Minari stores images as JPEG."""
    return np.broadcast_to(np.arange(count)[:, None, None], (count, 32, 48)).astype(np.uint8)


KINDS: dict[str, Callable[[], Log]] = {
    "dones": lambda: with_fields(dones=lambda last, _: last),
    "masks": lambda: with_fields(masks=lambda last, _: 1.0 - last),
    "ends of NaN": lambda: with_fields(terminals=lambda last, _: np.where(last, np.nan, 0)),
    "unknown field": lambda: with_fields(battery=lambda last, _: np.linspace(1, 0, len(last))),
    "shifted next": shifted_next,
    "far away": far_away,
    "gray images": lambda: with_observation("camera", pixels),
    "text": lambda: with_observation("instruction", lambda count: np.array(["go"] * count)),
    "classes of 64 bits": lambda: with_actions(lambda a: (a[:, 0] > 0).astype(np.int64) + 2**32),
    "several choices": lambda: with_actions(
        lambda a: np.stack([a[:, 0] > 0, 2 * (a[:, 0] > 0.5)], 1).astype(np.int64)
    ),
    "counts": lambda: with_actions(lambda a: (a * 15_000).astype(np.int16)),
    "led here": led_here,
}
OWN_ENDS = ("robomimic", "dreamer", "minari", "tfds", "lerobot")  # no field marks ends there
# Kind -> the words of a refusal, by format; formats that are not listed read the log.
REFUSED: dict[str, dict[str, str]] = {
    "dones": dict.fromkeys((*ARCHIVES, "zarr"), "data.roles={dones: terminal} reads 3"),
    "masks": dict.fromkeys((*ARCHIVES, "zarr"), "data.roles={masks: not_terminal} reads 3"),
    "ends of NaN": dict.fromkeys((*ARCHIVES, "zarr", "parquet"), "nan in row 39")
    | {"parquet": "nan at row 39", "csv": "empty at row 39"},
    "text": {"zarr": "data/instruction is <U2"},
    "classes of 64 bits": dict.fromkeys(
        (*ARCHIVES, "zarr", *OWN_ENDS), "4,294,967,297 at step 0; accepted: classes 0 to 65,535"
    ),
    "several choices": dict.fromkeys(
        (*ARCHIVES, "zarr", "robomimic", "dreamer", "lerobot"), "data.classes=[2,3] for classes"
    )
    | {"tfds": "action is int64 of shape (2,)"},
    "counts": dict.fromkeys(("dreamer", "lerobot"), "data.classes=[0]")
    | {"tfds": "action is int16 of shape (1,)"},
}
# Kind -> the words of a warning, by format, where a log is read.
WARNED: dict[str, dict[str, str]] = {
    "dones": dict.fromkeys(TABLES, "'dones' by data.terminal=dones"),
    "masks": dict.fromkeys(TABLES, "'masks' by"),
    "unknown field": dict.fromkeys((*ARCHIVES, "robomimic", "tfds", "lerobot"), "battery: as long"),
    "shifted next": dict.fromkeys(ARCHIVES, "taken as not logged")
    | dict.fromkeys(TABLES, "as if made by shifting rows; they are left out")
    | {"zarr": "next observations are not read (next_observations)"}
    | dict.fromkeys(("tfds", "lerobot"), "next_observations: as long as the actions"),
    "text": dict.fromkeys((*ARCHIVES, "robomimic", "dreamer", "tfds", "lerobot"), "instruction"),
    "classes of 64 bits": dict.fromkeys(TABLES, "float32 holds such values"),
    "several choices": dict.fromkeys(TABLES, "data.classes"),
    "counts": dict.fromkeys((*ARCHIVES, "zarr", "robomimic"), "read as numbers"),
    "led here": dict.fromkeys(WRITERS, "explained by the action of the next row"),
}
# (Kind, format) pairs that do not exist, and why.
ABSENT = {
    **{(kind, f): "ends are the format's own" for kind in ("dones", "masks") for f in OWN_ENDS},
    **{("ends of NaN", f): "ends are the format's own" for f in OWN_ENDS},
    **{("unknown field", f): "columns are named" for f in TABLES},
    **{("unknown field", f): "every field is observed" for f in ("zarr", "dreamer")},
    **{("unknown field", "minari"): "has no other fields"},
    **{("shifted next", f): "has its own" for f in ("robomimic", "dreamer", "minari")},
    **{(kind, f): "a column is a number" for kind in ("gray images", "text") for f in TABLES},
    ("far away", "tfds"): "TFDS itself stores float64 as float32",
    ("gray images", "lerobot"): "images are encoded",
    ("text", "minari"): "no space of Gymnasium has it beside numbers",
    ("classes of 64 bits", "minari"): "the space declares the classes",
    ("counts", "minari"): "the space declares the numbers",
}
CELLS = [(kind, form) for kind in KINDS for form in WRITERS if (kind, form) not in ABSENT]


@pytest.mark.parametrize(("kind", "written_as"), CELLS)
def test_an_odd_log_is_read_right_or_refused_in_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, written_as: str
) -> None:
    log = KINDS[kind]()
    if written_as in MARKED and kind not in ("dones", "masks", "ends of NaN"):
        log = marked(log)
    options = WRITERS[written_as](log, tmp_path)
    if refused := REFUSED.get(kind, {}).get(written_as):
        with pytest.raises(DataError, match=re.escape(refused)):
            load(options)
        return
    dataset = load(options)
    assert WARNED.get(kind, {}).get(written_as, "") in caplog.text
    if kind in ("dones", "masks"):  # rows of a table, which is one episode unless told
        assert dataset.num_episodes == 1 and "jumps within episodes" in caplog.text
        return
    if "camera" in log.observations[0]:
        camera = dataset.observations["camera"]
        shown = camera[: LENGTHS[0]].reshape(-1, 32, 48)
        np.testing.assert_array_equal(shown, log.observations[0]["camera"][: LENGTHS[0]])
    if kind == "several choices" and written_as not in TABLES:
        assert dataset.action_spec.classes == (2, 3)
    elif kind not in ("classes of 64 bits", "several choices"):  # of which a warning is checked
        check_transitions(dataset, log)
