"""Episodes from named arrays, as in NumPy archives and HDF5 files. The names, and what they mean,
are those of `readers/marks.py`; `data.roles` adds others.

All hold observations and actions, and optionally rewards; several observations are
`observations/NAME` each. They differ in how rows belong to episodes:

- T+1 rows of observations per episode: `lengths` (episodes,) in transitions, and optionally marks
  of ends, (episodes,) or by row
- T rows, as in D4RL: marks of ends by row, and optionally the observation after each row in
  `next_observations` (N, ...), or after each last action in `last_next` (episodes, ...). A row
  marked as terminal and as time-out is terminal. An episode also ends where the logged next
  observation is not that of the next row. The rows after the last mark are a truncated episode.
- T rows: `episode_lengths` (episodes,) in rows, and optionally `episode_names`
- OGBench: `terminals` without `timeouts` and `rewards` mark the last row of an episode, which is
  its final observation and not a terminal state; beside `masks`, these are terminal
- RLDS: `is_last` marks the row that holds the final observation
- Stable-Baselines: `obs`, and `episode_starts` (N,)
- one episode, with as many observations as actions, or one more
- (episodes, time, ...), (environments, time, ...) or (time, environments, ...): `data.axes`

`lengths` and `episode_lengths` are distinguished by their sums, so either name works. Where the
observation after the last action was not logged, its action, reward and terminal mark are kept.
"""

from worldmodel.data.readers.arrays.reading import ArrayOptions, episodes

__all__ = ["ArrayOptions", "episodes"]
