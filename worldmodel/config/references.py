"""Normalized scores, 100 x (R - min) / (max - min), each with its pair of reference returns.

Datasets of the same name can have different references and episode limits, so scores are comparable
only with their pair. A pair that is missing or contested is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config import EvaluationOptions
from worldmodel.config.option import format_value
from worldmodel.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Reference:
    """The returns that score 0 (`min`) and 100 (`max`), and where they come from.

    episode_limit: the steps after which episodes of their environment are truncated (None: unknown)
    """

    name: str
    min: float
    max: float
    source: str
    episode_limit: int | None = None

    def score(self, value: float) -> float:
        return 100 * (value - self.min) / (self.max - self.min)

    def note(self, limit: int | None) -> str:
        """Describes the scale, and compares its episode limit with `limit`, that of the run."""
        scale = (
            f"Normalized scores: a return of {self.min:g} scores 0, one of {self.max:g} scores "
            f"100 ({self.name}: {self.source})."
        )
        if self.episode_limit is None:
            return scale
        if self.episode_limit == limit:
            return f"{scale} Episodes have at most {limit} steps, as in the reference."
        here = "no limit" if limit is None else f"a limit of {limit} steps"
        return (
            f"{scale} Episodes of the reference have at most {self.episode_limit} steps, these "
            f"have {here}: these scores are not comparable with published ones."
        )


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

# Beginning of a name -> why it has no pair.
UNSUPPORTED_REFERENCES = {
    "minari/mujoco": "Minari has none for these sets, which are new policies on v5 environments "
    "(Farama-Foundation/Minari#323)",
    "minari/pen": "Minari doubled the episodes to 200 steps and kept D4RL's pair for 100, so that "
    "scores double too (Farama-Foundation/Minari#303); d4rl/pen is for 100 steps",
    "d4rl/maze2d": "D4RL's maximum is a controller's that often fails, and pairs differ between "
    "versions (Farama-Foundation/D4RL#159); minari/pointmaze-* are of other environments",
}


def resolve_reference(options: EvaluationOptions) -> Reference | None:
    """Returns the pair that the options name or give, if any. Raises ConfigError."""
    if error := reference_error(options):
        raise ConfigError(error)
    if options.reference_range is not None:
        low, high = options.reference_range
        return Reference("evaluation.reference_range", low, high, "a pair given")
    return None if options.reference is None else REFERENCES[options.reference]


def reference_error(options: EvaluationOptions) -> str | None:
    """Returns what is wrong with the options `reference` and `reference_range`, or None."""
    name, own = options.reference, options.reference_range
    if name is not None and own is not None:
        return "evaluation.reference and evaluation.reference_range: set only one of them"
    if own is not None and (len(own) != 2 or not own[0] < own[1]):
        return (
            f"evaluation.reference_range={format_value(own)}: accepts [MIN,MAX], the returns that "
            "score 0 and 100, with MIN < MAX"
        )
    if name is None or name in REFERENCES:
        return None
    own_pair = "evaluation.reference_range=[MIN,MAX]"
    for family, why in UNSUPPORTED_REFERENCES.items():
        if name.startswith(family):
            return f"evaluation.reference={name}: refused: {why}; use {own_pair}"
    return (
        f"evaluation.reference={name}: unknown reference{did_you_mean(name, REFERENCES)}; accepts "
        f"one of {', '.join(REFERENCES)}; or use {own_pair}"
    )
