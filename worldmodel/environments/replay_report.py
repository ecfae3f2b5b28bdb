"""What a replay found, as a table and in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich import box
from rich.table import Table

from worldmodel.environments.replay import HORIZONS, PARTED, SHIFTS, Replay, Step
from worldmodel.errors import printable

AGREE = 0.01  # share of steps up to which logs and environment agree
BETTER = 0.3  # share of the error that the action of another row leaves, where it is the right one
RESAMPLES = 500


def table(replay: Replay) -> Table:
    """Errors by horizon: medians over replayed steps, with 95% intervals over episodes."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False)
    titles = ("horizon", "steps", "error (std)", "95% interval", "reward error", "ends differ")
    for title in titles:
        shown.add_column(title, justify="right", no_wrap=True)
    for horizon in HORIZONS:
        steps = [step for step in replay.steps if step.horizon == horizon]
        if not steps:
            continue
        low, high = interval(steps)
        rewards = np.array([step.reward for step in steps])
        earned = "-" if np.isnan(rewards).all() else f"{np.nanmedian(rewards):.2g}"
        ends = sum(step.ended[0] != step.ended[1] for step in steps)
        error = float(np.median([step.error for step in steps]))
        row = (str(horizon), f"{len(steps):,}", f"{error:.2g}", f"{low:.1g} to {high:.1g}")
        shown.add_row(*row, earned, str(ends))
    return shown


def interval(steps: Sequence[Step]) -> tuple[float, float]:
    """95% bootstrap interval of the median error; episodes are resampled."""
    episodes = np.array([step.episode for step in steps])
    errors = np.array([step.error for step in steps])
    groups = [errors[episodes == episode] for episode in np.unique(episodes)]
    generator = np.random.default_rng(0)
    medians = [
        np.median(np.concatenate([groups[i] for i in drawn]))
        for drawn in generator.integers(len(groups), size=(RESAMPLES, len(groups)))
    ]
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def sentences(replay: Replay, name: str) -> Iterator[str]:
    """Whether logs and environment agree, and where and how they part first."""
    judged = replay.judged
    parted = [step for step in judged if replay.parted(step)]
    what = "steps from logged states" if replay.from_states else "steps from the resets"
    if _agree(replay, judged) and _agree(replay, [step for step in judged if any(step.ended)]):
        yield (
            f"The logs and {name} agree: {len(judged) - len(parted):,} of {len(judged):,} {what} "
            "differ by less than 1% of a typical step."
        )
    else:
        yield (
            f"The logs and {name} do not agree: they part in {len(parted):,} of {len(judged):,} "
            f"{what}."
        )
    if parted:
        yield _first(replay, parted[0])
        yield from _kinds(replay, parted)
    usual, others = replay.shifts.get(0, 0.0), {k: v for k, v in replay.shifts.items() if k}
    best = min(others, key=others.__getitem__, default=0)
    if best and others[best] < BETTER * usual:
        yield (
            f"The action of {SHIFTS[best]} fits better: a median error of {others[best]:.2g} of a "
            f"typical step, in place of {usual:.2g}. The actions of the logs are shifted by a row."
        )
    if replay.random:
        yield (
            f"{name} itself differs after the same state and action: where it draws at random, "
            "logs and environment part though both are right."
        )
    if replay.undetermined:
        yield (
            f"{replay.undetermined:,} starts were left out: velocities at the limit of what is "
            "observed do not determine the state."
        )


def _agree(replay: Replay, steps: Sequence[Step]) -> bool:
    return sum(map(replay.parted, steps)) <= AGREE * len(steps)


def _first(replay: Replay, step: Step) -> str:
    where = f"They first part at episode {step.episode}, step {step.row}"
    key, dimension, logged, here = step.worst
    if step.horizon == 0:
        where = f"The reset of episode {step.episode} is another"
    elif step.ended[0] != step.ended[1]:
        ended = "the logs end and the environment does not"
        if step.ended[1]:
            ended = "the environment ends and the logs do not"
        return f"{where}: {ended}."
    elif step.share <= PARTED:
        return f"{where}: the reward differs by {step.reward:.4g}."
    return (
        f"{where}: observation {printable(key)!r}, dimension {dimension}, is {logged:.6g} in the "
        f"logs and {here:.6g} in the environment."
    )


def _kinds(replay: Replay, parted: Sequence[Step]) -> Iterator[str]:
    """How often observations, rewards and ends differ."""
    observed = sum(step.share > PARTED for step in parted)
    ended = sum(step.ended[0] != step.ended[1] for step in parted)
    std = replay.reward_std
    earned = [step for step in parted if std is not None and step.reward > PARTED * std]
    yield (
        f"Of these, {observed:,} differ in observations, {len(earned):,} in rewards, {ended:,} in "
        "ends."
    )
    finals = [step for step in earned if step.ended[0] and step.ended[1]]
    if finals and len(finals) == len(earned):
        yield "All rewards that differ are those of an episode's last step."
