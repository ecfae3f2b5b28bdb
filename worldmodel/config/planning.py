"""Options of the planners."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option


@dataclass
class PlannerOptions:
    """Acting by a search in imagination, anew at every step of the environment."""

    kind: str = option(
        "none",
        "none; cem: the elites' mean; mppi: their mean weighted by return",
        choices=("none", "cem", "mppi"),
    )
    horizon: int = option(15, "imagined steps of a candidate", low=1)
    num_samples: int = option(512, "candidates drawn around the plan in every iteration", low=1)
    num_elites: int = option(64, "best candidates, which the next plan is made of", low=1)
    iterations: int = option(6, "rounds of drawing, judging and re-fitting", low=1)
    num_policy_samples: int = option(
        24, "further candidates from the policy, where the run has one (0: none)", low=0
    )
    use_value: bool = option(True, "count the critic's value at the horizon, where the run has one")
    discount: float | None = option(
        None, "discount per step (none: the counted value's, else 1 - 1/333)", low=0.0, high=1.0
    )
    temperature: float = option(
        0.5, "mppi: an elite's weight falls by e in so many deviations of the returns", low=1e-3
    )
    initial_std: float = option(
        1.0, "deviation of the first candidates; actions reach from -1 to 1", low=0.0
    )
    min_std: float = option(0.05, "least deviation of the candidates", low=0.0)
