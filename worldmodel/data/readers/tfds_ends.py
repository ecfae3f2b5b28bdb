"""How an episode of RLDS ends: what the fields of its steps say.

A record holds one episode of T+1 steps. `is_terminal` is set in the last one. Where it is missing,
`discount` or another mark tells, in the last step or in that of the last action.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldmodel.data.readers.marks import (
    MARKS,
    FieldNames,
    check_roles,
    discounts,
    role_of,
    truths,
)
from worldmodel.data.rlds_writer import OBSERVED
from worldmodel.errors import DataError

logger = logging.getLogger(__name__)

# Read for what they are called, besides marks.
READ = ("observation", "action", "reward", OBSERVED)
# Of an episode as a whole: they end a record, and tell nothing of terminal states.
OF_RECORDS = ("is_first", "is_last")

Steps = Mapping[str, Any]  # field -> (T+1, ...)


class Ends:
    """Reads the ends of the episodes of a data set.

    Args:
        features: the fields of its steps
        roles: `data.roles`
        source: the data set, for warnings and messages
    """

    def __init__(self, features: Mapping[str, Any], roles: Mapping[str, str], source: str):
        check_roles(roles, features)
        self.roles, self.told = roles, FieldNames(source)
        meanings = {name: role_of(name, roles) for name in features if name not in READ}
        marks = [name for name, role in meanings.items() if role in MARKS]
        known = {*marks, *(name for name, role in meanings.items() if role == "ignore")}
        self.unread = [name for name in meanings if name not in known]
        telling = [name for name in marks if name not in OF_RECORDS]
        if "is_terminal" in telling:  # what else the builder wrote need not decide
            marks = [n for n in marks if n in (*OF_RECORDS, "is_terminal", *roles)]
        elif not telling:
            logger.warning(
                "%s: its steps have no is_terminal and no discount, so every episode counts as "
                "truncated; data.roles={NAME: terminal} names another field",
                source,
            )
        self.marks = [name for name in marks if meanings[name] != "start"]

    def terminated(self, steps: Steps) -> bool:
        """Whether an episode ended in a terminal state. Raises DataError for marks inside of it,
        and for those that have two meanings.
        """
        terminal = False
        for name in self.marks:
            if steps.get(name) is None:
                continue
            role = role_of(name, self.roles)
            ended = (discounts if role == "not_terminal" else truths)(steps[name], name)
            if role in ("not_end", "not_done"):
                ended = ~ended
            self._check_inside(name, ended)
            if role in ("terminal", "not_terminal") and ended[-2:].any():
                terminal |= self._is_terminal(name, ended)
            if role in ("done", "not_done") and ended[-2:].any():
                negated = "not_" if role == "not_done" else ""
                raise DataError(
                    f"{name} marks its end, and no field tells what that means: "
                    f"data.roles={{{name}: {negated}terminal}} reads a terminal episode, "
                    f"data.roles={{{name}: {negated}end}} one that was only cut there"
                )
        return terminal

    def _check_inside(self, name: str, ended: np.ndarray) -> None:
        strict = name in ("is_last", "is_terminal")
        inside = np.flatnonzero(ended[:-1] if strict else ended[:-2])
        if len(inside):
            what = f"{name} of 0" if role_of(name, self.roles) == "not_terminal" else name
            raise DataError(
                f"{what} at step {inside[0]}, before the last step, {len(ended) - 1}; "
                "accepted: one episode per record"
            )

    def _is_terminal(self, name: str, ended: np.ndarray) -> bool:
        """Raises DataError for a discount of 0 in the last step alone, where RLDS has padding."""
        if name not in self.roles and role_of(name) == "not_terminal" and not ended[-2:-1].any():
            raise DataError(
                f"{name} is 0 in its last step alone, where RLDS has padding, and no is_terminal "
                f"tells what that means: data.roles={{{name}: not_terminal}} reads a terminal "
                f"episode, data.roles={{{name}: ignore}} one that was only cut there"
            )
        return True


def ends_in_zeros(observations: Mapping[str, np.ndarray]) -> bool:
    """Whether the last observation is zeros throughout."""
    return not any(np.any(values[-1]) for values in observations.values())
