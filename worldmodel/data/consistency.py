"""What stacked data say about themselves that no single value shows: missed resets, actions that
belong to another step, last observations that were not logged.

Every check looks at a sample of bounded size, so that its cost does not depend on the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from worldmodel.data.action_spec import ActionSpec
from worldmodel.data.trajectories import Trajectories

MAX_STEPS, STRETCHES = 20_000, 40  # rows that are looked at, in so many stretches
MAX_COLUMNS = 64  # of all vectors, and of the actions
MAX_SHOWN = 3  # steps in one line

# Missed resets. On logs of simulators and of a real quadrotor, the longest step of a column is at
# most 75 times its 90th percentile and 3 times the next one; at resets it is 20 and 5 or more.
JUMP = 20.0  # times the 90th percentile of the other steps
GAP = 5.0  # times the longest of the other steps
MAX_JUMPS = 0.15  # share of the steps
MIN_JUMP_STEPS = 30

# Alignment. Where the action acts on the observation of its row, the one of the next row explains
# less of the change: it knows of it only by feedback.
MIN_TRANSITIONS = 100
MIN_EXPLAINED = 0.1
MIN_RATIO = 1.5
MIN_LEFT = 1e-4  # of the variance of a change that the observation leaves open
BLOCKS = 10  # of rows, alternately to fit and to test
RIDGE = 1e-3  # times the variance of the inputs
LIMIT = 10.0  # of an input, in standard deviations


def notes(trajectories: Trajectories) -> list[str]:
    """What a user should know of a valid dataset, one text each."""
    rules = (unlogged_finals, jumps, alignment, lost_digits)
    return [text for rule in rules for text in rule(trajectories)]


def lost_digits(trajectories: Trajectories) -> Iterator[str]:
    """What float32 cannot hold, and what to do about it."""
    for field, text in trajectories.lost_digits.items():
        remedy = "Subtract a constant from it in the data, or use larger units"
        if field == "reward":
            remedy = (
                "Subtract a constant from it in the data; returns then change by it at each step"
            )
        yield f"{field}: {text}. {remedy}"


# ------------------------------------------------------------------------- final observations


def unlogged_finals(trajectories: Trajectories) -> Iterator[str]:
    """What is left out where the observation after the last action was not logged."""
    t = trajectories
    if t.final_logged is None:
        return
    missing = ~t.final_logged
    text = (
        f"{missing.sum():,} of {t.num_episodes:,} episodes end without the observation after their "
        "last action: the last action, its reward and the end are learned, where it led is not"
    )
    open_ended = missing & ~t.terminated
    if open_ended.any():
        text += (
            f". {open_ended.sum():,} of them are not terminal, so that value learning leaves out "
            "their last transition"
        )
        if t.rewards is not None:
            lost = t.rewards[t.last_steps[open_ended] - 1].astype(np.float64)
            text += f", {np.count_nonzero(lost):,} of which earned a reward ({lost.sum():g} in all)"
    yield text


# ------------------------------------------------------------------------------- missed resets


def jumps(trajectories: Trajectories) -> Iterator[str]:
    """Steps that are far longer than all others: rows of several episodes read as one."""
    sample = _sample(trajectories)
    if sample is None:
        return
    change = np.diff(sample.values, axis=0)[sample.steps]
    found: dict[int, float] = {}  # place of the step -> how many times longer than any other
    column = shown = 0
    for i, values in enumerate(change.T):
        longest, times = _outliers(np.abs(values), np.ptp(sample.values[:, i]))
        if len(longest) and times > max(found.values(), default=0.0):
            column, shown = i, times
        found |= {place: times for place in longest.tolist() if times > found.get(place, 0.0)}
    if not found:
        return
    places = sorted(found)
    rows = sample.rows[sample.steps[places]]
    each = ", ".join(_step_name(trajectories, row) for row in rows[:MAX_SHOWN].tolist())
    more = f" and {len(rows) - MAX_SHOWN} more" if len(rows) > MAX_SHOWN else ""
    yield (
        f"{sample.names[column]}: jumps within episodes, {shown:.3g} times as far as in any other "
        f"of the {len(change):,} steps that were looked at ({each}{more}). If an episode begins "
        "there, mark its start or the end of the one before in the data, so that no transition "
        "crosses a reset"
    )


def _outliers(steps: np.ndarray, extent: float) -> tuple[np.ndarray, float]:
    """The places of steps (n,) that stand apart from all others, and by how many times; none if
    they wrap around, from one end of the values to the other.
    """
    none = np.zeros(0, np.int64), 0.0
    order = np.argsort(steps)
    ordered = steps[order]
    first = max(int((1 - MAX_JUMPS) * len(steps)), 1)  # jumps are few, or they are no jumps
    if len(steps) < MIN_JUMP_STEPS or ordered[first - 1] == 0 or (steps == 0).mean() > 0.5:
        return none
    times = ordered[first:] / ordered[first - 1 : -1]
    if not len(times) or times.max() < GAP:
        return none
    least = first + int(times.argmax())
    usual = ordered[least - 1]
    wraps = steps >= extent - 4 * usual
    places = order[least:]
    if ordered[least] < JUMP * np.quantile(ordered[:least], 0.9) or wraps[places].all():
        return none
    return places[~wraps[places]], float(ordered[least] / usual)


def _step_name(trajectories: Trajectories, row: int) -> str:
    """Such as 'episode 3, steps 20 to 21'."""
    t = trajectories
    (episode,) = np.flatnonzero((t.offsets <= row) & (row < t.offsets + t.lengths))[:1]
    step = row - t.offsets[episode]
    return f"{t.name(int(episode))}, steps {step} to {step + 1}"


# ------------------------------------------------------------------------ alignment of actions


class Explained(NamedTuple):
    """The share of the change of observations, beyond what these explain themselves, that the
    action of the same row and that of the next row explain: R2 on held-out rows, averaged over
    columns.
    """

    same_row: float
    next_row: float


def alignment(trajectories: Trajectories) -> Iterator[str]:
    """Whether the action of a row seems to have led to its observation, not to act on it."""
    found = explained(trajectories)
    if found is None or found.next_row < MIN_EXPLAINED:
        return
    if found.next_row < MIN_RATIO * found.same_row:
        return
    yield (
        f"action: the change to the next observation is explained by the action of the next row "
        f"(held-out R2 {found.next_row:.2f}), not by that of its own row (R2 "
        f"{max(found.same_row, 0):.2f}). If the action of a row is the one that led to its "
        "observation, read it so: data=dreamer for Dreamer's files, data.feedthrough=true for "
        "tables and records; in other formats move the actions one row up"
    )


def explained(trajectories: Trajectories) -> Explained | None:
    """By ridge regression; None where there is too little to tell."""
    sample = _sample(trajectories)
    if sample is None:
        return None
    t = trajectories
    both = np.isin(sample.steps + 1, sample.steps)  # the next row has an action too
    now = sample.steps[both]
    if len(now) < MIN_TRANSITIONS or t.action_spec.vector_size > MAX_COLUMNS:
        return None
    actions = _inputs(t.actions[sample.rows], t.action_spec)
    state, change = sample.values[now], sample.values[now + 1] - sample.values[now]
    training = np.arange(len(now)) * BLOCKS // len(now) % 2 == 0
    moving = (change[training].std(0) > 0) & (change[~training].std(0) > 0)
    if not moving.any():
        return None
    change = change[:, moving] / change[training][:, moving].std(0)
    left = _residual(state, change, training)
    unknown = left > MIN_LEFT
    if not unknown.any():
        return None
    same, following = (
        _residual(np.concatenate([state, actions[row]], 1), change, training)
        for row in (now, now + 1)
    )
    return Explained(*(float((1 - after / left)[unknown].mean()) for after in (same, following)))


def _inputs(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Actions (n, A) of a regression: numbers, and classes one-hot."""
    columns = actions.reshape(len(actions), -1).T
    parts = [
        np.eye(n)[np.clip(column.astype(int), 0, n - 1)] if n else column[:, None]
        for column, n in zip(columns, spec.classes, strict=True)
    ]
    return np.concatenate(parts, 1).astype(np.float64)


def _residual(inputs: np.ndarray, targets: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(D,) the mean square of the error of a ridge regression of targets (n, D), on the rows that
    it is not fitted to.
    """
    mean, std = inputs[training].mean(0), inputs[training].std(0)
    inputs = np.clip((inputs - mean) / np.where(std > 0, std, 1.0), -LIMIT, LIMIT)
    fitted, middle = inputs[training], targets[training].mean(0)
    normal = fitted.T @ fitted + RIDGE * len(fitted) * np.eye(inputs.shape[1])
    weights = np.linalg.solve(normal, fitted.T @ (targets[training] - middle))
    return np.square(targets - middle - inputs @ weights)[~training].mean(0)


# ----------------------------------------------------------------------------------- the sample


class _Sample(NamedTuple):
    """Consecutive rows in stretches.

    rows: (n,) their positions in the arrays
    values: (n, D) float64, all vectors
    names: (D,) of the columns
    steps: (m,) places i such that i and i + 1 are consecutive logged observations of an episode
    """

    rows: np.ndarray
    values: np.ndarray
    names: list[str]
    steps: np.ndarray


def _sample(trajectories: Trajectories) -> _Sample | None:
    """At most MAX_STEPS rows in stretches, evenly spaced; None without vectors."""
    t = trajectories
    vectors = {key: value for key, value in t.observations.items() if value.ndim == 2}
    if not vectors:
        return None
    ends, total = np.cumsum(t.lengths), t.num_steps
    flat = np.arange(total)
    if total > MAX_STEPS:
        stretch = MAX_STEPS // STRETCHES
        begins = np.linspace(0, total - stretch, STRETCHES).astype(np.int64)
        flat = np.unique(begins[:, None] + np.arange(stretch))
    episodes = np.searchsorted(ends, flat, side="right")
    step = flat - (ends - t.lengths)[episodes]
    follows = (np.diff(flat, append=-1) == 1) & (step + 1 < t.observed_lengths[episodes])
    rows = t.offsets[episodes] + step
    columns = [np.asarray(value[rows], np.float64) for value in vectors.values()]
    names = [
        f"observation {key!r}" + (f", column {i}" if value.shape[1] > 1 else "")
        for key, value in vectors.items()
        for i in range(value.shape[1])
    ]
    values = np.concatenate(columns, 1)[:, :MAX_COLUMNS]
    return _Sample(rows, values, names[:MAX_COLUMNS], np.flatnonzero(follows))
