"""How an episode of RLDS ends: what the fields of its steps say.

A record holds one episode of T+1 steps. `is_terminal` is set in the last one. Where it is missing,
`discount` or another mark tells, in the last step or in that of the last action. RLDS has
padding for the action and reward of the last step; other builders store a transition there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from worldmodel.data.episodes import Episode
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
LAST = "is_last"
TRANSITION = ("end", "truncated", "terminal")  # its roles where the last step is a transition

# Warnings, after the number of episodes that have them.
LAST_REWARD = "have a reward at their last step, where RLDS has padding; it is left out"
LAST_ACTION = (
    "have an action other than 0 at their last step, where RLDS has padding; it is left out "
    f"(data.roles={{{LAST}: end}} reads it as a transition, data.roles={{{LAST}: final}} ends this "
    "warning)"
)

Steps = Mapping[str, Any]  # field -> (T+1, ...)


class Ends:
    """Reads the ends of the episodes of a data set.

    Args:
        features: the fields of its steps
        roles: `data.roles`
        source: the data set, for warnings and messages
    """

    def __init__(self, features: Mapping[str, Any], roles: Mapping[str, str], source: str):
        check_roles(roles, [*features, LAST])
        self.roles, self.told = roles, FieldNames(source)
        meanings = {name: role_of(name, roles) for name in features if name not in READ}
        marks = [name for name, role in meanings.items() if role in MARKS]
        known = {*marks, *(name for name, role in meanings.items() if role == "ignore")}
        self.unread = [name for name in meanings if name not in known]
        telling = [name for name in marks if name not in OF_RECORDS]
        if "is_terminal" in telling:  # what else the builder wrote need not decide
            kept = (*OF_RECORDS, "is_terminal", *roles)
            marks = [n for n in marks if n in kept or meanings[n] == "start"]
        elif not telling:
            logger.warning(
                "%s: its steps have no is_terminal and no discount, so every episode counts as "
                "truncated; data.roles={NAME: terminal} names another field",
                source,
            )
        self.marks = marks

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
            if role == "start":
                self._check_starts(name, ended)
                continue
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

    def _check_starts(self, name: str, started: np.ndarray) -> None:
        if len(later := np.flatnonzero(started[1:])):
            raise DataError(
                f"{name} at step {later[0] + 1}, after the first step; accepted: one episode per "
                f"record (data.roles={{{name}: ignore}} reads the record as one episode)"
            )

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


class LastSteps:
    """Whether the last step of a record is RLDS's padding or a transition.

    Args:
        roles: `data.roles`, of which that of `is_last` answers
        source: the data set, for messages
        own: whether this package wrote it, so that it is padding
        asks: whether a reward there is asked about
    """

    def __init__(self, roles: Mapping[str, str], source: str, *, own: bool, asks: bool):
        role = None if own else roles.get(LAST, "ignore")
        self.source, self.role, self.asks, self.own = source, role, asks, own
        self.notes, self.left_out = Counter[str](), 0.0

    def read(self, episode: Episode) -> Episode:
        """The episode, with its last step as a transition if it is one.

        Raises DataError for a reward there, without an answer.
        """
        if self.own or not episode.final_logged:
            return episode
        if self.role in TRANSITION:
            return replace(episode, final_logged=False)
        reward = 0.0 if episode.rewards is None else float(np.nansum(episode.rewards[-1:]))
        if reward and self.asks and self.role != "final":
            raise DataError(
                f"{self.source}: {episode.name} has a reward of {reward:g} at its last step, where "
                f"RLDS has padding: data.roles={{{LAST}: end}} reads the last step of each record "
                "as a transition whose next observation was not logged, data.roles="
                f"{{{LAST}: final}} as the final observation alone and leaves its reward out "
                "(rewards that stand one row late are not read)"
            )
        self.notes[LAST_REWARD] += bool(reward)
        self.left_out += reward
        acted = not reward and self.asks and self.role != "final"
        self.notes[LAST_ACTION] += acted and bool(np.any(episode.actions[-1:]))
        return episode

    def tell(self) -> None:
        for note, times in (+self.notes).items():
            total = f" (in all {self.left_out:g})" if note == LAST_REWARD else ""
            logger.warning("%s: %d episodes %s%s", self.source, times, note, total)


def ends_in_zeros(observations: Mapping[str, np.ndarray]) -> bool:
    """Whether the last observation is zeros throughout."""
    return not any(np.any(values[-1]) for values in observations.values())
