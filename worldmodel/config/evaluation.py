"""Options of the evaluation, of its planner and of its policy ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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

    def errors(self, prefix: str) -> Iterator[str]:
        """Yields which options do not go together."""
        if self.num_elites > self.num_samples:
            yield (
                f"{prefix}num_elites={self.num_elites}: at most "
                f"{prefix}num_samples={self.num_samples}, from which they are chosen"
            )


@dataclass
class PolicyRankingOptions:
    """Does the model rank policies and action sequences as the environment does?"""

    rollouts_per_policy: int = option(
        50, "rollouts of each policy, in the model and in the environment (0: no ranking)", low=0
    )
    horizons: list[int] = option(
        [15, 50, 200], "steps after which returns are compared; the last is the headline", low=1
    )
    num_start_states: int = option(
        8, "start states in which action sequences are ranked (0: none)", low=0
    )
    num_action_sequences: int = option(64, "random action sequences per start state", low=2)
    sequence_length: int = option(15, "steps of an action sequence", low=1)


@dataclass
class EvaluationOptions:
    """How a checkpoint is evaluated."""

    horizons: list[int] = option(
        [1, 2, 5, 10, 15, 25, 50, 100],
        "open-loop horizons in steps, as far as episodes allow; the policy's and the planner's "
        "are added",
        low=1,
    )
    context: int = option(10, "timesteps that the model observes before it predicts", low=1)
    starts_per_episode: int = option(5, "starts per held-out episode", low=1)
    num_samples: int = option(
        39, "sampled rollouts: their mean is the prediction, their spread is evaluated", low=1
    )
    episodes: int = option(50, "episodes in the real environment", low=1)
    seed: int = option(1000, "seed of the first episode; episode j has seed + j", low=0)
    resamples: int = option(2000, "bootstrap resamples behind an interval", low=100)
    confidence: float = option(0.95, "coverage of the intervals", low=0.5, high=0.999)
    first_start: int | None = option(
        None, "timestep of the first start (null: the first one after a whole context)", low=0
    )
    start_stride: int | None = option(
        None, "timesteps between starts, as many as fit (null: `starts_per_episode` starts)", low=1
    )
    data: dict[str, Any] | None = option(
        None,
        "other data to evaluate on, all of it: data options that override the run's, `format` for "
        "another format (null: the run's held-out episodes)",
    )
    free_run: bool = option(
        False, "simulate whole episodes from their actions alone, after the context, in raw units"
    )
    planner: PlannerOptions = dataclasses.field(default_factory=PlannerOptions)
    reference: str | None = option(
        None, "reference returns of normalized scores, such as d4rl/hopper"
    )
    reference_range: list[float] | None = option(
        None, "your own reference returns, [MIN,MAX]: those that score 0 and 100"
    )
    policy_ranking: PolicyRankingOptions = dataclasses.field(default_factory=PolicyRankingOptions)
