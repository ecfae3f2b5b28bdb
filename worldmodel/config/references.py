"""Normalised scores, 100 x (R - min) / (max - min), each with the pair of returns behind it.

"Normalised" is not one number: data sets of one name have other references and episode limits. A
pair that is missing or contested is refused. Needs no JAX: a mistake is told before training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldmodel.config import EvaluationOptions
from worldmodel.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Reference:
    """Returns that score 0 and 100, where they come from, and the steps after which an episode of
    their environment is cut off (None: not known).
    """

    name: str
    low: float
    high: float
    source: str
    limit: int | None = None

    def score(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def note(self, limit: int | None) -> str:
        """Says whose scale it is, and whether episodes end elsewhere than at `limit` steps."""
        said = (
            f"Normalised scores: 0 is a return of {self.low:g}, 100 one of {self.high:g} "
            f"({self.name}: {self.source})."
        )
        if self.limit is None:
            return said
        if self.limit == limit:
            return f"{said} Episodes have {limit} steps at most, as there."
        here = "no limit" if limit is None else f"a limit of {limit} steps"
        return (
            f"{said} There, episodes have {self.limit} steps at most; here they have {here}: these "
            "scores are not comparable with published ones."
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "min": self.low,
            "max": self.high,
            "source": self.source,
            "episode_limit": self.limit,
        }


D4RL = "D4RL's infos.py, the same for v0 to v2"
MINARI = "Minari's data set metadata, extremes of 100 episodes"

# name -> (min, max, episode limit)
_D4RL = {
    "halfcheetah": (-280.178953, 12135.0, 1000),
    "hopper": (-20.272305, 3234.3, 1000),
    "walker2d": (1.629008, 4592.3, 1000),
    "ant": (-325.6, 3879.7, 1000),
    "pen": (96.262799, 3076.8331017826877, 100),
    "door": (-56.512833, 2880.5693087298737, 200),
    "hammer": (-274.856578, 12794.134825156867, 200),
    "relocate": (-6.425911, 4233.877797728884, 200),
    "antmaze-umaze": (0.0, 1.0, 700),
    "antmaze-medium": (0.0, 1.0, 1000),
    "antmaze-large": (0.0, 1.0, 1000),
    "kitchen": (0.0, 4.0, 280),
}
_MINARI = {
    "pointmaze-open": (7.20, 229.86, 300),
    "pointmaze-open-dense": (70.733, 229.427, 300),
    "pointmaze-umaze": (13.49, 218.70, 300),
    "pointmaze-umaze-dense": (59.252, 223.969, 300),
    "pointmaze-medium": (17.66, 361.05, 600),
    "pointmaze-medium-dense": (49.241, 368.809, 600),
    "pointmaze-large": (3.55, 462.26, 800),
    "pointmaze-large-dense": (27.166, 481.534, 800),
}
REFERENCES = {
    f"{family}/{name}": Reference(f"{family}/{name}", low, high, source, limit)
    for family, source, pairs in (("d4rl", D4RL, _D4RL), ("minari", MINARI, _MINARI))
    for name, (low, high, limit) in pairs.items()
}

# What a name begins with -> why there is no pair for it.
UNSUPPORTED_REFERENCES = {
    "minari/mujoco": "Minari has none for these sets, which are new policies on v5 environments "
    "(Farama-Foundation/Minari#323)",
    "minari/pen": "Minari doubled the episodes to 200 steps and kept D4RL's pair for 100, so that "
    "scores double too (Farama-Foundation/Minari#303); d4rl/pen is for 100 steps",
    "d4rl/maze2d": "D4RL's maximum is a controller's that often fails, and pairs differ between "
    "versions (Farama-Foundation/D4RL#159); minari/pointmaze-* are of other environments",
}


def resolve_reference(options: EvaluationOptions) -> Reference | None:
    """The pair that the options name or give, if any. Raises ConfigError for what `fault` tells."""
    if wrong := reference_error(options):
        raise ConfigError(wrong)
    if options.reference_range is not None:
        return Reference("evaluation.reference_range", *options.reference_range, "a pair given")
    return None if options.reference is None else REFERENCES[options.reference]


def reference_error(options: EvaluationOptions) -> str | None:
    """What is wrong with the pair that is asked for, as one line, or None."""
    name, own = options.reference, options.reference_range
    if name is not None and own is not None:
        return "evaluation.reference and evaluation.reference_range: give one of them"
    if own is not None and (len(own) != 2 or not own[0] < own[1]):
        return f"evaluation.reference_range={own}: accepts [MIN,MAX], returns that score 0 and 100"
    if name is None or name in REFERENCES:
        return None
    yours = "a pair of your own, evaluation.reference_range=[MIN,MAX]"
    for family, why in UNSUPPORTED_REFERENCES.items():
        if name.startswith(family):
            return f"evaluation.reference={name}: refused, since {why}; accepted: {yours}"
    return (
        f"evaluation.reference={name}: no such pair{did_you_mean(name, REFERENCES)}; accepted: "
        f"{', '.join(REFERENCES)}; or {yours}"
    )
