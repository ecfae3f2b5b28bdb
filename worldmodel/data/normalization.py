"""Which observation is brought to which range: the options `data.normalize`, key by key."""

from __future__ import annotations

from worldmodel.config import DataOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError, did_you_mean


def resolve_normalization(options: DataOptions, trajectories: Trajectories) -> dict[str, str]:
    """Name of each vector -> its kind of scaling. Raises ConfigError for a name that is none.

    An entry KIND is for all, KEY:KIND for one; later entries win.
    """
    vectors = [key for key, value in trajectories.observations.items() if value.ndim == 2]
    chosen = dict.fromkeys(vectors, "none")
    for entry in options.normalize:
        key, _, kind = entry.rpartition(":")
        if key and key not in vectors:
            raise ConfigError(
                f"data.normalize={entry}: these logs have no vector {key!r}"
                f"{did_you_mean(key, vectors)}; accepted: {', '.join(vectors) or 'none, only images'}"
            )
        chosen |= {key: kind} if key else dict.fromkeys(vectors, kind)
    return chosen
