"""The option `data.normalize`: which normalization each observation gets."""

from __future__ import annotations

from worldmodel.config import DataOptions
from worldmodel.data.trajectories import Trajectories
from worldmodel.errors import ConfigError, did_you_mean


def resolve_normalization(options: DataOptions, trajectories: Trajectories) -> dict[str, str]:
    """Returns vector -> its normalization. Raises ConfigError for an unknown vector.

    An entry KIND applies to all vectors, KEY:KIND to one; later entries take precedence.
    """
    vectors = [key for key, value in trajectories.observations.items() if value.ndim == 2]
    chosen = dict.fromkeys(vectors, "none")
    for entry in options.normalize:
        key, _, kind = entry.rpartition(":")
        if key and key not in vectors:
            raise ConfigError(
                f"data.normalize={entry}: this dataset has no vector {key!r}"
                f"{did_you_mean(key, vectors)}; "
                f"accepted: {', '.join(vectors) or 'none, all observations are images'}"
            )
        chosen |= {key: kind} if key else dict.fromkeys(vectors, kind)
    return chosen
