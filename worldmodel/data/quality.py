"""What looks wrong in logs that are valid: read off the data card, each with what to do about it.

A finding is no error. Every rule stands for a mistake that trains without complaint and fails
silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Card = Mapping[str, Any]
Scaling = Mapping[str, str]  # name of each vector -> its kind of scaling, as in data.normalize

FEW_EPISODES = 5  # fewer leave nothing to hold out that an interval could be made of
WIDE = 1000.0  # standard deviations this many times apart are of different scales
FAR = 1e4  # a mean this many standard deviations away from 0 hides the changes
MOST_CLASSES = 100  # whole numbers up to here may be classes
MOST_NAMED = 4  # columns in one line
DARK = 1  # images whose brightest pixel is this were scaled to 0..1
NARROW = 0.01  # actions that vary by less than this share of their bounds


def quality_warnings(card: Card, scaling: Scaling) -> list[str]:
    """One text each, the gravest first; none: nothing looks odd."""
    return [text for rule in RULES for text in rule(card, scaling)]


# ---------------------------------------------------------------------------------------- episodes


def _few_episodes(card: Card, scaling: Scaling) -> Iterator[str]:
    count, transitions = card["episodes"], card["transitions"]
    if count >= FEW_EPISODES:
        return
    cut = _round(max(transitions / 20, 2))
    held_out = "nothing can be held out" if count == 1 else "a single one is held out"
    yield (
        f"{_count(count, 'episode')}: {held_out}, so judgement means little. Cut long episodes "
        f"into pieces: data.max_episode_steps={cut}"
    )


def _one_episode_outweighs_the_rest(card: Card, scaling: Scaling) -> Iterator[str]:
    longest, transitions = card["lengths"]["max"], card["transitions"]
    if card["episodes"] >= FEW_EPISODES and longest > transitions / 2:
        yield (
            f"the longest episode holds {longest / transitions:.0%} of the transitions, and the "
            "split is by episode: either side may be nearly empty. Cut it: "
            f"data.max_episode_steps={_round(max(card['lengths']['median'], transitions / 20))}"
        )


def _repeated_episodes(card: Card, scaling: Scaling) -> Iterator[str]:
    if copies := card["repeated_episodes"]:
        yield (
            f"{copies:,} of {card['episodes']:,} episodes repeat another one exactly: held-out "
            "episodes may be trained on. Read every file once"
        )


def _windows_that_no_episode_fills(card: Card, scaling: Scaling) -> Iterator[str]:
    unfilled = [window["length"] for window in card["windows"] if not window["count"]]
    if unfilled:
        rows = card["lengths"]["max"] + 1
        yield (
            f"no episode has {min(unfilled):,} rows: windows so long are padding in part. Train "
            f"with windows of {rows} at most: training.world_model.window={rows}"
        )


# -------------------------------------------------------------------------------------------- ends


def _ends_without_terminals(card: Card, scaling: Scaling) -> Iterator[str]:
    lengths = card["lengths"]
    if card["terminals"] == 0 and lengths["min"] < lengths["max"]:
        yield (
            "episodes differ in length and none is terminal. If some really ended (a fall, a "
            "goal), say so in the logs, else a model takes every end for a time-out"
        )


def _time_limits_as_terminals(card: Card, scaling: Scaling) -> Iterator[str]:
    longest = card["longest"]
    count = longest["episodes"]
    if count >= max(3, card["episodes"] / 10) and longest["terminals"] == count:
        yield (
            f"all {count:,} episodes of the greatest length, {card['lengths']['max']:,}, are "
            "terminal. If that length is a time limit, they are time-outs: terminal means that "
            "the environment really ended"
        )


# ------------------------------------------------------------------------------------ observations


def _columns_that_never_change(card: Card, scaling: Scaling) -> Iterator[str]:
    for key, entry in _vectors(card):
        constant = [low == high for low, high in zip(entry["min"], entry["max"], strict=True)]
        if any(constant):
            yield f"{_columns(key, entry, constant)}: constant. Leave out what never changes"


def _columns_that_only_rise(card: Card, scaling: Scaling) -> Iterator[str]:
    for key, entry in _vectors(card):
        if any(entry["monotonic"]):
            yield (
                f"{_columns(key, entry, entry['rising'])}: never falling within an episode. Clocks "
                "and counters tell a model nothing of the system: leave them out"
            )


def _scales_that_differ(card: Card, scaling: Scaling) -> Iterator[str]:
    for key, entry in _vectors(card):
        moving = [(std, i) for i, std in enumerate(entry["std"]) if std > 0]
        if scaling.get(key) != "none" or not moving:
            continue
        (least, small), (most, large) = min(moving), max(moving)
        far = [std > 0 and abs(mean) > FAR * std for mean, std in _pairs(entry, "mean", "std")]
        if most > WIDE * least:
            yield (
                f"{key}: column {_name(entry, large)} varies {most / least:,.0f} times as much as "
                f"column {_name(entry, small)}, which a loss would hardly see. Bring them to one "
                f"scale: data.normalize=[{key}:standardize]"
            )
        elif any(far):
            yield (
                f"{_columns(key, entry, far)}: changes are tiny beside the mean, and a loss would "
                f"hardly see them. Bring them to scale: data.normalize=[{key}:standardize]"
            )


def _repeated_rows(card: Card, scaling: Scaling) -> Iterator[str]:
    if card["repeated_observations"] > 0.5:
        yield (
            f"{card['repeated_rows']:.0%} of the observations repeat the one before. If sensors "
            "are slower than the log, thin it to their rate, else a model learns to stand still"
        )


def _images(card: Card, scaling: Scaling) -> Iterator[str]:
    for key, entry in card["observations"].items():
        if len(entry["shape"]) != 3:
            continue
        height, _, channels = entry["shape"]
        if entry["min"] == entry["max"]:
            yield f"{key}: every pixel of the images is {entry['min']}. Mend the log"
        elif entry["max"] <= DARK:
            yield f"{key}: no pixel is above {entry['max']}. Scale images to 0..255 before uint8"
        if channels > 4 >= height:
            yield (
                f"{key}: images of {height} x {entry['shape'][1]} pixels with {channels} channels. "
                "If channels come first in the log, move them last"
            )


# ----------------------------------------------------------------------------------------- actions


def _actions_that_never_change(card: Card, scaling: Scaling) -> Iterator[str]:
    action = card["action"]
    if action["kind"] == "discrete":
        missing = [str(label) for label, count in enumerate(action["counts"]) if not count]
        if missing:
            yield (
                f"action: {_class_words(missing)} never taken. Nothing can be learned of what "
                f"{'it does' if len(missing) == 1 else 'they do'}"
            )
        return
    constant = [low == high for low, high in _pairs(action, "min", "max")]
    if any(constant):
        yield (
            f"{_columns('action', action, constant)}: constant. Nothing can be learned of what it "
            "does: leave out what never changes"
        )


def _actions_at_their_bounds(card: Card, scaling: Scaling) -> Iterator[str]:
    action = card["action"]
    if action["kind"] == "discrete":
        return
    stuck = [
        share > 0.5 and low < high
        for share, low, high in zip(action["at_bounds"], action["min"], action["max"], strict=True)
    ]
    if any(stuck):
        share = max(share for share, s in zip(action["at_bounds"], stuck, strict=True) if s)
        yield (
            f"{_columns('action', action, stuck)}: at a bound in {share:.0%} of the steps. If that "
            "is where they were clipped, widen data.action_low and data.action_high to what the "
            "system takes; if they are on or off, integer classes fit better"
        )


def _actions_that_leave_their_range_unused(card: Card, scaling: Scaling) -> Iterator[str]:
    action = card["action"]
    if action["kind"] == "discrete":
        return
    each = zip(action["std"], action["low"], action["high"], strict=True)
    narrow = [0 < std < NARROW * (high - low) for std, low, high in each]
    if any(narrow):
        yield (
            f"{_columns('action', action, narrow)}: a spread below {NARROW:.0%} of the width "
            "of the bounds. An outlier, or another unit? Set data.action_low and data.action_high"
        )


def _actions_that_look_like_classes(card: Card, scaling: Scaling) -> Iterator[str]:
    action = card["action"]
    if action["kind"] == "discrete" or action["size"] != 1 or not action["integer_valued"]:
        return
    low, high = action["min"][0], action["max"][0]
    if low == 0 and 0 < high <= MOST_CLASSES:
        yield (
            f"action: whole numbers from 0 to {high:g}, taken for a continuous action. If they are "
            "classes, store them as integers (data=table: data.discrete=true)"
        )


# ----------------------------------------------------------------------------------------- rewards


def _rewards_that_teach_nothing(card: Card, scaling: Scaling) -> Iterator[str]:
    rewards = card["rewards"]
    if rewards is None or rewards["min"] < rewards["max"]:
        return
    # A constant reward is worth something where episodes can end: it counts their steps.
    if rewards["min"] == 0 or card["terminals"] == 0:
        yield (
            f"reward: always {rewards['min']:g}. No policy can be better than another: mend the "
            "log, or train the model alone with policy=none"
        )


RULES: tuple[Callable[[Card, Scaling], Iterator[str]], ...] = (
    _repeated_episodes,
    _few_episodes,
    _one_episode_outweighs_the_rest,
    _windows_that_no_episode_fills,
    _time_limits_as_terminals,
    _ends_without_terminals,
    _images,
    _repeated_rows,
    _columns_that_never_change,
    _columns_that_only_rise,
    _scales_that_differ,
    _actions_that_look_like_classes,
    _actions_that_never_change,
    _actions_that_leave_their_range_unused,
    _actions_at_their_bounds,
    _rewards_that_teach_nothing,
)


# ------------------------------------------------------------------------------------------- words


def _vectors(card: Card) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return (item for item in card["observations"].items() if len(item[1]["shape"]) == 1)


def _pairs(entry: Mapping[str, Any], *names: str) -> Iterator[tuple[float, float]]:
    return zip(*(entry[name] for name in names), strict=True)


def _name(entry: Mapping[str, Any], column: int) -> str:
    return entry["columns"][column] if "columns" in entry else str(column)


def _columns(key: str, entry: Mapping[str, Any], chosen: Sequence[bool]) -> str:
    """Such as 'observation: columns 3, 5'; a single column goes without its number."""
    names = [_name(entry, i) for i, yes in enumerate(chosen) if yes]
    if len(chosen) == 1 and "columns" not in entry:
        return key
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    word = "column" if len(names) == 1 else "columns"
    return f"{key}, {word} {', '.join(names[:MOST_NAMED])}{more}"


def _class_words(labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return f"class {labels[0]} is"
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return f"classes {', '.join(labels[:MOST_NAMED])}{more} are"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _round(number: float) -> int:
    """To one digit, as people choose numbers: 0.73 -> 1, 7,231 -> 7,000."""
    return max(1, int(float(f"{number:.0e}")))
