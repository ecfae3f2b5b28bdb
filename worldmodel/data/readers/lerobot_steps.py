"""Whether the rows of a LeRobotDataset follow each other as its metadata say."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from worldmodel.errors import bullet_list

logger = logging.getLogger(__name__)

GAP = 1.5  # a time step so many times longer than the median is a gap
OTHER_RATE = 0.1  # relative difference of the time step from that of `fps`, which is told


def check_steps(
    source: str,
    fps: float,
    episodes: Sequence[int],
    seconds: Sequence[np.ndarray],
    frames: Sequence[np.ndarray],
) -> None:
    """Warns of gaps in the frame numbers and times of episodes, and of times at another rate.

    Args:
        source: for messages
        fps: of the metadata
        episodes: their numbers
        seconds: the times of the rows of each episode
        frames: the numbers of the frames of each episode, or nothing
    """
    jumps = [line for e, x in zip(episodes, frames, strict=False) for line in _jumps(e, x)]
    steps = [np.diff(x) for x in seconds]
    median = float(np.median(np.concatenate(steps))) if any(map(len, steps)) else 0.0
    gaps = [line for e, x in zip(episodes, steps, strict=True) for line in _gaps(e, x, median)]
    if jumps:
        head = (
            f"{source}: frame_index does not count up by 1 at {len(jumps)} steps, as if rows were "
            "removed; a transition across them is not one step of the system"
        )
        logger.warning("%s", bullet_list(head, jumps))
    if gaps:
        head = (
            f"{source}: {len(gaps)} time steps are longer than {GAP:g} times the median of "
            f"{median:.3g} s, or run backwards; models assume a constant time step"
        )
        logger.warning("%s", bullet_list(head, gaps))
    if median > 0 and abs(median * fps - 1) > OTHER_RATE:
        logger.warning(
            "%s: meta/info.json has fps=%g and the timestamps of rows are %.3g s apart, which is "
            "%.3g per second; correct the one that is wrong", source, fps, median, 1 / median,
        )  # fmt: skip


def _jumps(episode: int, frames: np.ndarray) -> Iterator[str]:
    for step in np.flatnonzero(np.diff(frames) != 1).tolist():
        yield f"episode {episode}: from {frames[step]:.0f} to {frames[step + 1]:.0f} at step {step}"


def _gaps(episode: int, steps: np.ndarray, median: float) -> Iterator[str]:
    if median > 0:
        for step in np.flatnonzero((steps > GAP * median) | (steps < 0)).tolist():
            yield f"episode {episode}: {steps[step]:.3g} s after step {step}"
