"""Warnings about valid datasets, derived from the data card, each with a remedy.

A warning is not an error. Every rule detects a mistake in the data that would train without any
message and give poor results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from worldmodel.data.action_inference import ONE_CLASS

Card = Mapping[str, Any]
Scaling = Mapping[str, str]  # vector -> its normalization, as in data.normalize

FEW_EPISODES = 5  # with fewer, the held-out episodes are too few for an interval
WIDE = 1000.0  # ratio of standard deviations at which scales differ
FAR = 1e4  # a mean so many standard deviations from 0 hides the changes
MAX_CLASSES = 100  # integers up to this may be classes
ONE_HOT = 1e-5  # difference of the sum of the means of columns from that of one-hot columns
MAX_SHOWN = 4  # columns or classes in one line
DARK = 1  # the maximum of images that were scaled to 0..1
NARROW = 0.01  # standard deviation of an action, as a share of the width of its bounds


def quality_warnings(card: Card, scaling: Scaling) -> list[str]:
    """Returns one text per warning, the most serious first."""
    rules: tuple[Callable[[Card], Iterator[str]], ...] = (
        _repeated_episodes,
        _few_episodes,
        _dominant_episode,
        _windows_longer_than_all_episodes,
        _time_limits_as_terminals,
        _no_terminals,
        _images,
        _repeated_observations,
        _constant_columns,
        _monotonic_columns,
        partial(_different_scales, scaling=scaling),
        _classes,
        _continuous_actions,
        _constant_rewards,
    )
    return [text for rule in rules for text in rule(card)]


# ---------------------------------------------------------------------------------------- episodes


def _few_episodes(card: Card) -> Iterator[str]:
    count, transitions = card["episodes"], card["transitions"]
    if count >= FEW_EPISODES:
        return
    cut = _round(max(transitions / 20, 2))
    held_out = "none can be held out" if count == 1 else "a single one is held out"
    yield (
        f"{count} episode{'s' * (count > 1)}: {held_out}, so the evaluation is unreliable. Cut "
        f"long episodes into pieces: data.max_episode_steps={cut}"
    )


def _dominant_episode(card: Card) -> Iterator[str]:
    longest, transitions = card["lengths"]["max"], card["transitions"]
    if card["episodes"] >= FEW_EPISODES and longest > transitions / 2:
        yield (
            f"the longest episode holds {longest / transitions:.0%} of the transitions, and the "
            "split is by episode, so either part may be very small. Cut long episodes: "
            f"data.max_episode_steps={_round(max(card['lengths']['median'], transitions / 20))}"
        )


def _repeated_episodes(card: Card) -> Iterator[str]:
    if copies := card["repeated_episodes"]:
        yield (
            f"{copies:,} of {card['episodes']:,} episodes are copies of another one, so held-out "
            "episodes may also be in the training split. Remove the copies"
        )


def _windows_longer_than_all_episodes(card: Card) -> Iterator[str]:
    unfilled = [window["length"] for window in card["windows"] if not window["count"]]
    if unfilled:
        longest = card["lengths"]["max"] + 1
        yield (
            f"no episode has {min(unfilled):,} steps, so windows of that length contain padding. "
            f"Train with windows of at most {longest}: training.world_model.window={longest}"
        )


# -------------------------------------------------------------------------------------------- ends


def _no_terminals(card: Card) -> Iterator[str]:
    lengths = card["lengths"]
    if card["terminals"] == 0 and lengths["min"] < lengths["max"]:
        yield (
            "episodes differ in length and none is terminal. If some ended in a terminal state (a "
            "fall, a goal), mark them in the data; otherwise all count as truncated"
        )


def _time_limits_as_terminals(card: Card) -> Iterator[str]:
    longest = card["longest"]
    count = longest["episodes"]
    if count >= max(3, card["episodes"] / 10) and longest["terminals"] == count:
        yield (
            f"all {count:,} episodes of the maximum length, {card['lengths']['max']:,}, are "
            "terminal. If that length is a time limit, mark them as truncated: terminal means that "
            "the environment reached a terminal state"
        )


# ------------------------------------------------------------------------------------ observations


def _constant_columns(card: Card) -> Iterator[str]:
    for key, entry in _vectors(card):
        if _lost(card, f"observation {key!r}"):
            continue
        constant = [low == high for low, high in zip(entry["min"], entry["max"], strict=True)]
        others = ",".join(name for name in card["observations"] if name != key)
        if all(constant) and others:
            yield f"{key}: constant. data.observations=[{others}] leaves it out"
        elif any(constant):
            yield f"{_columns(key, entry, constant)}: constant. Leave out constant columns"


def _monotonic_columns(card: Card) -> Iterator[str]:
    for key, entry in _vectors(card):
        if any(entry["monotonic"]):
            yield (
                f"{_columns(key, entry, entry['monotonic'])}: never decreasing within an episode. "
                "Leave out clocks and counters, which carry no information about the system"
            )


def _different_scales(card: Card, scaling: Scaling) -> Iterator[str]:
    for key, entry in _vectors(card):
        moving = [(std, i) for i, std in enumerate(entry["std"]) if std > 0]
        if scaling.get(key) != "none" or not moving:
            continue
        (least, narrow), (most, wide) = min(moving), max(moving)
        means = np.subtract(entry["mean"], entry.get("offset", 0.0))  # as models see it
        each = zip(means, entry["std"], strict=True)
        far = [std > 0 and abs(mean) > FAR * std for mean, std in each]
        if most > WIDE * least:
            yield (
                f"{key}: the standard deviation of column {_name(entry, wide)} is "
                f"{most / least:,.0f} times that of column {_name(entry, narrow)}, which a loss "
                f"would ignore. Normalize them: data.normalize=[{key}:standardize]"
            )
        elif any(far):
            yield (
                f"{_columns(key, entry, far)}: changes are tiny compared with the mean, so a loss "
                f"would ignore them. Normalize them: data.normalize=[{key}:standardize]"
            )


def _repeated_observations(card: Card) -> Iterator[str]:
    lost = any(_lost(card, f"observation {key!r}") for key in card["observations"])
    if card["repeated_observations"] > 0.5 and not lost:
        yield (
            f"{card['repeated_observations']:.0%} of the observations equal the previous one. If "
            "the sensors are slower than the recording, subsample it to their rate"
        )


def _images(card: Card) -> Iterator[str]:
    for key, entry in card["observations"].items():
        if len(entry["shape"]) != 3:
            continue
        height, _, channels = entry["shape"]
        if entry["min"] == entry["max"]:
            yield f"{key}: every pixel of the images is {entry['min']}. Fix the recording"
        elif entry["max"] <= DARK:
            yield f"{key}: no pixel is above {entry['max']}. Scale images to 0..255 before uint8"
        if channels > 4 >= height:
            yield (
                f"{key}: images of {height} x {entry['shape'][1]} pixels with {channels} channels. "
                "If channels come first in the data, move them last"
            )


# ----------------------------------------------------------------------------------------- actions


def _classes(card: Card) -> Iterator[str]:
    action = card["action"]
    if action["kind"] == "continuous":
        return
    choices = {"action": action["counts"]} if action["kind"] == "discrete" else {}
    choices |= {f"action {name}": counts for name, counts in action.get("choices", {}).items()}
    for name, counts in choices.items():
        if missing := [str(label) for label, count in enumerate(counts) if not count]:
            yield (
                f"{name}, {_listed(missing, 'class', 'classes')}: never taken, so "
                f"{'its effect' if len(missing) == 1 else 'their effects'} cannot be learned"
            )
        if len(counts) == 1:
            yield ONE_CLASS.replace("action", name, 1)


def _continuous_actions(card: Card) -> Iterator[str]:
    action = card["action"]
    if action["kind"] != "continuous":
        action = action.get("numbers")
    if not action or _lost(card, "action"):
        return
    least, most = action["min"], action["max"]
    whole = all(low == 0 < high <= MAX_CLASSES for low, high in zip(least, most, strict=True))
    if card["action"]["kind"] == "continuous" and action["integer_valued"] and whole:
        one_hot = len(most) > 1 and max(most) == 1 and abs(sum(action["mean"]) - 1) < ONE_HOT
        classes = str(len(most)) if one_hot else ",".join(f"{high + 1:g}" for high in most)
        yield (
            f"action: integers from 0 to {max(most):g}, read as a continuous action. If they are "
            f"{'one-hot ' if one_hot else ''}classes, set data.classes=[{classes}], or store them "
            "as integers"
        )
    constant = [low == high for low, high in zip(least, most, strict=True)]
    if any(constant):
        yield (
            f"{_columns('action', action, constant)}: constant, so its effect cannot be learned. "
            "Leave out constant columns"
        )
    each = zip(action["std"], action["low"], action["high"], strict=True)
    narrow = [0 < std < NARROW * (high - low) for std, low, high in each]
    if any(narrow):
        yield (
            f"{_columns('action', action, narrow)}: standard deviation below {NARROW:.0%} of "
            "the width of the bounds. Look for outliers and units, or set data.action_low and "
            "data.action_high"
        )
    shares = [0 if c else s for s, c in zip(action["at_bounds"], constant, strict=True)]
    stuck = [share > 0.5 for share in shares]
    if any(stuck):
        yield (
            f"{_columns('action', action, stuck)}: at a bound in {max(shares):.0%} of the steps. "
            "If actions were clipped, widen data.action_low and data.action_high to what the "
            "system accepts; if they switch on and off, use integer classes"
        )


# ----------------------------------------------------------------------------------------- rewards


def _constant_rewards(card: Card) -> Iterator[str]:
    rewards = card["rewards"]
    if rewards is None or rewards["min"] < rewards["max"] or _lost(card, "reward"):
        return
    # With terminal episodes, a constant reward counts their steps.
    if rewards["min"] == 0 or card["terminals"] == 0:
        yield (
            f"reward: always {rewards['min']:g}, so all policies are equally good. Fix the data, "
            "or train the model alone: policy=none"
        )


# ------------------------------------------------------------------------------------------- words


def _vectors(card: Card) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return (item for item in card["observations"].items() if len(item[1]["shape"]) == 1)


def _lost(card: Card, field: str) -> bool:
    """Whether a field lost digits in the conversion to float32: the log is not to blame."""
    return field in card.get("lost_digits", ())


def _name(entry: Mapping[str, Any], column: int) -> str:
    return entry["columns"][column] if "columns" in entry else str(column)


def _columns(key: str, entry: Mapping[str, Any], chosen: Sequence[bool]) -> str:
    """Such as 'observation, columns 3, 5'; without the number if there is only one column."""
    names = [_name(entry, i) for i, yes in enumerate(chosen) if yes]
    if len(chosen) == 1 and "columns" not in entry:
        return key
    return f"{key}, {_listed(names, 'column', 'columns')}"


def _listed(names: Sequence[str], one: str, several: str) -> str:
    """Such as 'columns 3, 5 and 7 more'."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return f"{one if len(names) == 1 else several} {', '.join(names[:MAX_SHOWN])}{more}"


def _round(number: float) -> int:
    """Rounds to one digit: 0.73 -> 1, 7,231 -> 7,000."""
    return max(1, int(float(f"{number:.0e}")))
