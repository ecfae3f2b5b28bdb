"""Options of the policies."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.option import option


@dataclass
class PolicyOptions:
    """What every policy algorithm has."""

    name: str = option(MISSING, "policy algorithm")


@dataclass
class NoPolicy(PolicyOptions):
    """Train the world model alone."""

    name: str = option("none", "policy algorithm")


@dataclass
class ActorCriticOptions(PolicyOptions):
    """DreamerV3's actor-critic, trained on imagined rollouts."""

    name: str = option("actor_critic", "policy algorithm")
    hidden: int | None = option(
        None, "units of every hidden layer (none: a preset's, by the model)", low=1
    )
    layers: int = option(3, "hidden layers of actor and critic", low=1)
    horizon: int = option(15, "imagined steps from every start", low=1)
    discount: float = option(1 - 1 / 333, "discount per step", low=0.0, high=1.0)
    lambda_: float = option(0.95, "lambda of the lambda-return", low=0.0, high=1.0)
    entropy: float = option(3e-4, "weight of the policy's entropy", low=0.0)
    gradient: str = option(
        "reinforce",
        "how the actor learns; dynamics: through the model, continuous actions only",
        choices=("reinforce", "dynamics"),
    )
    normalizer_rate: float = option(
        0.01, "rate of the running percentiles of the return", low=0.0, high=1.0
    )
    slow_rate: float = option(0.02, "rate of the slow critic", low=0.0, high=1.0)
    slow_scale: float = option(1.0, "weight of the pull towards the slow critic", low=0.0)
    replay_scale: float = option(
        0.3, "weight of the critic's loss on logged rewards (joint training only)", low=0.0
    )
