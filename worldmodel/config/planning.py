"""Options of the planners, CEM and MPPI."""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option


@dataclass
class PlannerOptions:
    """Model-predictive control: a search in imagination at every step of the environment."""

    kind: str = option(
        "none",
        "planner; cem: mean of the elites, mppi: mean weighted by return",
        choices=("none", "cem", "mppi"),
    )
    horizon: int = option(15, "imagined steps of a plan", low=1)
    num_samples: int = option(
        512, "action sequences sampled around the plan in every iteration", low=1
    )
    num_elites: int = option(64, "best sequences, from which the next plan is computed", low=1)
    iterations: int = option(6, "iterations of sampling, evaluating and refitting", low=1)
    num_policy_samples: int = option(
        24, "further sequences from the policy, if the run has one (0: none)", low=0
    )
    use_value: bool = option(True, "bootstrap with the critic at the horizon, if the run has one")
    discount: float | None = option(
        None, "discount per step (null: that of the critic, else 1 - 1/333)", low=0.0, high=1.0
    )
    temperature: float = option(
        0.5, "mppi: temperature of the weights, in standard deviations of the returns", low=1e-3
    )
    initial_std: float = option(
        1.0, "initial standard deviation of the actions, which are in [-1, 1]", low=0.0
    )
    min_std: float = option(0.05, "minimum standard deviation of the actions", low=0.0)
