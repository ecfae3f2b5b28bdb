"""A data card as tables for `rich`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldmodel.errors import printable, require

MAX_COLUMNS = 16  # that a table shows one by one


def render(card: dict[str, Any]) -> Group:
    """Renders a card as tables for `rich`: an overview, each observation, and the actions.

    Example:
        >>> import numpy as np
        >>> from rich.console import Console
        >>> from worldmodel.data import Episode, build_card, render, stack_episodes
        >>> episode = Episode({"x": np.zeros((9, 2))}, np.ones((8, 1)), np.ones(8), terminated=True)
        >>> Console().print(render(build_card(stack_episodes([episode], "one flight"))))
        one flight
          episodes ...
    """
    known = isinstance(card, Mapping) and "observations" in card
    require(known, "card", type(card).__name__, "what `build_card` returns")
    observations = [_observation_section(*item) for item in card["observations"].items()]
    overview = _section(card["source"], _overview(card))
    return Group(overview, *observations, *_action_sections(card["action"]))


def _section(title: str, table: Table) -> Group:
    """A table below a title, which may be wider than the table."""
    return Group(Text(printable(title), style="bold"), table, "")


def _overview(card: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_row(
        "  episodes",
        f"{card['episodes']:,} ({card['terminals']:,} terminal, {card['timeouts']:,} truncated)",
    )
    if unlogged := card.get("unlogged_finals"):
        table.add_row("  without the final observation", f"{unlogged:,}")
    table.add_row("  transitions", f"{card['transitions']:,}")
    table.add_row("  length", _length_words(**card["lengths"]))
    for window in card["windows"]:
        table.add_row(f"  windows of {window['length']:,} steps", _window_words(window))
    table.add_row("  return", _extent(card["returns"]))
    table.add_row("  reward", _extent(card["rewards"]))
    return table


def _length_words(min: int, median: float, max: int) -> str:
    if min == max:
        return f"{max:,} transitions in every episode"
    return f"{min:,} to {max:,} transitions, median {median:,g}"


def _window_words(window: dict[str, Any]) -> str:
    if not window["count"]:
        return "none, all episodes are shorter"
    if window["episode_fraction"] == 1:
        return f"{window['count']:,}, in all episodes"
    episodes, steps = _percent(window["episode_fraction"]), _percent(window["step_fraction"])
    return f"{window['count']:,}, in {episodes} of the episodes, {steps} of the steps"


def _observation_section(key: str, observation: dict[str, Any]) -> Group:
    table = _table(*STATISTICS)
    if len(observation["shape"]) == 1:
        _add_columns(table, observation)
    else:
        table.add_row("all pixels", *(_number(observation[name]) for name in STATISTICS))
    name = "observation" if key == "observation" else f"observation {key}"
    shape = " x ".join(map(str, observation["shape"]))
    return _section(f"{name}: {observation['dtype']} ({shape})", table)


def _action_sections(action: dict[str, Any]) -> Iterator[Group]:
    if action["kind"] == "discrete":
        title, table = f"action: one of {action['size']} classes", _class_table(action["counts"])
        yield _section(title, table)
    elif action["kind"] == "continuous":
        yield _section(f"action: continuous ({action['size']})", _bounds_table(action))
    else:
        if action["numbers"]:
            size = len(action["numbers"]["mean"])
            yield _section(f"action: continuous ({size})", _bounds_table(action["numbers"]))
        size = len(action["choices"])
        yield _section(f"action: choices ({size})", _choice_table(action["choices"]))


def _bounds_table(action: dict[str, Any]) -> Table:
    table = _table(*STATISTICS, "low", "high", "at a bound")
    low, high, at_bounds = action["low"], action["high"], action["at_bounds"]
    if len(low) > MAX_COLUMNS:
        more = [(_number(min(low)), _number(max(high)), _percents(at_bounds))]
    else:
        each = zip(low, high, at_bounds, strict=True)
        more = [(_number(a), _number(b), _percent(share)) for a, b, share in each]
    _add_columns(table, action, more)
    return table


def _choice_table(choices: Mapping[str, list[int]]) -> Table:
    """A row for each of the first choices: how often its classes were taken."""
    table = _table("classes", "share of each")
    for name, counts in list(choices.items())[:MAX_COLUMNS]:
        shares = _percents([count / sum(counts) for count in counts])
        table.add_row(Text(printable(name)), f"{len(counts):,}", shares)
    if len(choices) > MAX_COLUMNS:
        table.add_row(f"and {len(choices) - MAX_COLUMNS:,} more", "", "")
    return table


def _class_table(counts: list[int]) -> Table:
    table, total = _table("count", "share", first="class"), sum(counts)
    if len(counts) > MAX_COLUMNS:
        shares = [count / total for count in counts]
        table.add_row("each", _to(counts, "{:,}".format), _percents(shares))
        return table
    for label, count in enumerate(counts):
        table.add_row(str(label), f"{count:,}", _percent(count / total))
    return table


STATISTICS = ("min", "mean", "max", "std")


def _table(*numbers: str, first: str = "column") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _add_columns(
    table: Table, entry: dict[str, Any], more: Sequence[Sequence[str]] | None = None
) -> None:
    """Adds a row per column, with its statistics and `more` cells; many columns share one row."""
    size = len(entry["mean"])
    if size > MAX_COLUMNS:
        low, high = _number(min(entry["min"])), _number(max(entry["max"]))
        mean, std = (_to(entry[name], "{:.2g}".format) for name in ("mean", "std"))
        table.add_row(f"all {size:,}", low, mean, high, std, *(more or [()])[0])
        return
    for i, name in enumerate(entry.get("columns", range(size))):
        numbers = (_number(entry[statistic][i]) for statistic in STATISTICS)
        table.add_row(Text(printable(name)), *numbers, *(more[i] if more else ()))


def _extent(statistics: dict[str, float] | None) -> str:
    if statistics is None:
        return "not logged"
    low, mean, high = (_number(statistics[name]) for name in ("min", "mean", "max"))
    return f"always {low}" if low == high else f"{low} to {high}, mean {mean}"


def _to(values: Sequence[Any], words: Callable[[Any], str]) -> str:
    return f"{words(min(values))} to {words(max(values))}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(share: float) -> str:
    """Never rounds to 0 % or 100 % what is between them."""
    if 0 < share < 5e-4:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < share < 1 else f"{100 * share:.3g} %"


def _percents(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
