"""results.json of the smoke run holds the structure and the numbers that golden/smoke.json pins.

To pin an intended change, replace the changed entries of the golden file and say why in the commit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden" / "smoke.json"
# These name the machine, the moment or the folder of the run.
VOLATILE = {"run", "command", "seconds", "software", "config", "data", "methods"}
# Another CPU, or a compiler that optimizes otherwise, rounds otherwise. After the 60 updates of
# this run that changed 1e-5 of a number at most.
RELATIVE = 1e-3
# Rollouts in a chaotic system: a changed digit becomes another trajectory.
ROLLOUTS = 0.05
# Policies that return nearly the same may change places: their correlation can become any other.
ORDER = {"spearman", "pearson", "regret", "mmrv"}


def tolerance(path: tuple[str, ...]) -> float:
    if path[0] != "policy_ranking":
        return RELATIVE
    return 1.0 if ORDER & {*path} and "sequences" not in path else ROLLOUTS


def leaves(tree: Any, methods: list[str], path: tuple[str, ...] = ()) -> Iterator[tuple]:
    """Every path with its value; a number's method as its text."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            if key == "method" and isinstance(value, int):
                value = methods[value]
            yield from leaves(value, methods, (*path, key))
    elif isinstance(tree, list) and tree:
        for place, value in enumerate(tree):
            yield from leaves(value, methods, (*path, str(place)))
    else:
        yield path, tree


def flat(results: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    kept = {key: value for key, value in results.items() if key not in VOLATILE}
    return dict(leaves(kept, results.get("methods", [])))


@pytest.fixture(scope="module")
def pairs(smoke_run: Path) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """(expected, found) by path."""
    found = flat(json.loads((smoke_run / "evaluation" / "results.json").read_text()))
    expected = flat(json.loads(GOLDEN.read_text()))
    assert found.keys() ^ expected.keys() == set()
    return {path: (expected[path], found[path]) for path in expected}


def test_numbers_of_the_smoke_run_are_those_of_the_golden_file(pairs) -> None:
    wrong = {
        ".".join(path): (expected, found)
        for path, (expected, found) in pairs.items()
        if isinstance(expected, float)
        and found != pytest.approx(expected, rel=tolerance(path), abs=tolerance(path))
    }
    assert not wrong


def test_counts_and_texts_of_the_smoke_run_are_those_of_the_golden_file(pairs) -> None:
    exact = {path: pair for path, pair in pairs.items() if not isinstance(pair[0], float)}
    assert exact and {p: pair for p, pair in exact.items() if pair[0] != pair[1]} == {}
