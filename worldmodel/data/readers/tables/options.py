"""The options of tables: which columns are what, and how CSV is laid out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config import DataOptions, feedthrough, option
from worldmodel.data.readers.marks import MARKS
from worldmodel.data.readers.tables.columns import listing
from worldmodel.data.readers.tables.csv_layout import CSVOptions


@dataclass
class TableData(DataOptions):
    """CSV or Parquet tables: a file, a folder of files or a pattern."""

    name: str = option("table", "data source")
    observations: list[str] = option(  # pyright: ignore[reportIncompatibleVariableOverride]
        MISSING, "columns of the observation: one vector, and an image for each column of bytes"
    )
    actions: list[str] = option(MISSING, "columns of the action")
    next_observations: list[str] | None = option(
        None, "columns of the observation after the action, in the order of data.observations"
    )
    reward: str | None = option(None, "column of the reward of the row's action (null: no reward)")
    episode: str | None = option(
        None, "column that identifies the episode (null: a file is an episode, or several by marks)"
    )
    time: str | None = option(None, "column of the time, which must not decrease")
    terminal: str | None = option(
        None, "column that is true in the last row of a terminal episode (null: none is)"
    )
    truncated: str | None = option(
        None, "column that is true in the last row of an episode, terminal or not"
    )
    last_row: str = option(
        "auto",
        "what the last row of an episode is: a transition, or the final observation with padding; "
        "auto: a transition where rewards or ends are named and the last action is not blank",
        choices=("auto", "transition", "observation"),
    )
    discrete: bool = option(False, "the single column of actions holds classes 0, 1, ...")
    row_range: list[int] | None = option(
        None, "[FIRST,LAST] rows to read from every file, counted from 0 (null: all)", low=0
    )
    feedthrough: bool = feedthrough()
    csv: CSVOptions = dataclasses.field(default_factory=CSVOptions)

    def chosen_observations(self) -> None:
        return None

    def column_names(self) -> dict[str, list[str]]:
        return {"observation": self.observations, "action": self.actions}

    @property
    def reward_column(self) -> str | None:
        """The column of the reward, by its option or its role."""
        return self.reward or next((n for n, r in self.roles.items() if r == "reward"), None)

    @property
    def mark_roles(self) -> dict[str, str]:
        """Column -> role, of the columns that mark where episodes end."""
        named = {self.terminal: "terminal", self.truncated: "truncated"}
        given = {name: role for name, role in named.items() if name}
        return {n: str(r) for n, r in self.roles.items() if r in MARKS} | given

    @property
    def logs_transitions(self) -> bool:
        """Whether the last row of an episode is a transition, if its action is given."""
        if self.last_row != "auto" or self.feedthrough:
            return self.last_row == "transition"
        return bool(self.reward_column or self.mark_roles)

    def errors(self) -> Iterator[str]:
        following = self.next_observations or []
        for key in ("observations", "actions", "next_observations"):
            names = getattr(self, key) or []
            if twice := sorted({name for name in names if names.count(name) > 1}):
                yield f"data.{key}: {listing(twice)} is listed twice; accepted: each column once"
        if following and len(following) != len(self.observations):
            yield (
                f"data.next_observations has {len(following)} columns and data.observations "
                f"{len(self.observations)}; accepts as many"
            )
        if self.discrete and len(self.actions) > 1:
            yield f"data.discrete=true: accepts one column in data.actions, not {len(self.actions)}"
        if self.feedthrough and (following or self.last_row == "transition"):
            other = "data.next_observations" if following else "data.last_row=transition"
            yield f"data.feedthrough=true and {other}: set one, as actions act on their own row"
        if following and self.last_row == "observation":
            yield "data.next_observations and data.last_row=observation: set one of them"
        for column, role in self.roles.items():
            if role not in (*MARKS, "reward", "ignore"):
                yield (
                    f"data.roles={{{column}: {role}}}: data=table accepts "
                    f"{', '.join(r for r in MARKS if 'done' not in r)}, reward and ignore; "
                    "data.observations, data.actions and data.next_observations name others"
                )
        if self.row_range is not None and not (
            len(self.row_range) == 2 and self.row_range[0] < self.row_range[1]
        ):
            given = ",".join(map(str, self.row_range))
            yield f"data.row_range=[{given}]: accepts [FIRST,LAST] with FIRST < LAST"
        yield from self.csv.errors()
        yield from super().errors()
