"""Kinds of log x formats: each cell holds the right transitions, or words that say what to do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logs_in_formats import WRITERS, Log, check_transitions, system_log

from worldmodel.data import load

MARKED = ("npz", "hdf5", "csv", "parquet", "zarr")  # where fields mark the ends of episodes


def marked(log: Log) -> Log:
    """The log with the marks of terminal and of truncated rows."""
    for length, terminal in zip(log.lengths, log.terminal, strict=True):
        last = np.arange(length) == length - 1
        log.fields.append({"terminals": last & terminal, "timeouts": last & (not terminal)})
    return log


@pytest.mark.parametrize("written_as", WRITERS)
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
        check_transitions(load(WRITERS[written_as](log, Path(folder))), log)
