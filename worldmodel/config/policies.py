"""Options of the policies."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from worldmodel.config.option import option

# Of an ensemble of predictions; imagination/uncertainty.py has the formulae.
UNCERTAINTIES = (
    "max_aleatoric",
    "max_pairwise",
    "max_deviation",
    "ensemble_variance",
    "ensemble_std",
    "epistemic_std",
    "log_likelihood_variance",
    "leave_one_out_kl",
)


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


@dataclass
class OfflineOptions(PolicyOptions):
    """What all offline algorithms have: networks, the mix of logged and imagined rows."""

    units: int = option(256, "units of every hidden layer", low=1)
    layers: int = option(2, "hidden layers of actor and critics", low=1)
    actor_rate: float = option(
        1.0, "learning rate of the actor, as a share of training.policy.learning_rate", low=0.0
    )
    discount: float = option(0.99, "discount per step", low=0.0, high=1.0)
    slow_rate: float = option(
        0.005, "rate of the slow copies that targets are made of", low=0.0, high=1.0
    )
    normalize_reward: bool = option(True, "rewards in units of their standard deviation")
    real_share: float = option(
        1.0, "share of logged rows in every batch; the others are imagined", low=0.0, high=1.0
    )
    starts: int = option(5000, "logged states that a refresh imagines from", low=1)
    horizon: int = option(5, "imagined steps from every start", low=1)
    refresh_every: int = option(1000, "updates between refreshes of the imagined rows", low=1)
    retention: int = option(5, "refreshes that imagined rows are kept for", low=1)
    penalty: str = option(
        "none", "uncertainty that costs reward in imagined rows", choices=("none", *UNCERTAINTIES)
    )
    penalty_scale: float = option(
        0.5, "cost of the mean uncertainty on logs, in standard deviations of the reward", low=0.0
    )
    truncate: float | None = option(
        None,
        "imagined rows end where uncertainty exceeds this quantile of it on logs",
        low=0.0,
        high=1.0,
    )
    truncate_by: str = option(
        "ensemble_std", "the uncertainty that rows are cut by", choices=UNCERTAINTIES
    )


@dataclass
class BCOptions(OfflineOptions):
    """Behaviour cloning: the logged action, by squared error."""

    name: str = option("bc", "policy algorithm")


@dataclass
class TD3BCOptions(OfflineOptions):
    """TD3+BC (Fujimoto and Gu, 2021)."""

    name: str = option("td3_bc", "policy algorithm")
    value_scale: float = option(
        2.5, "weight of the value, in units of its mean size, against cloning", low=0.0
    )
    target_noise: float = option(0.2, "noise of the action that targets look at", low=0.0)
    target_clip: float = option(0.5, "most of that noise", low=0.0)
    actor_every: int = option(2, "updates of the critic between those of the actor", low=1)


@dataclass
class ReBRACOptions(OfflineOptions):
    """ReBRAC (Tarasov et al., 2023): cloning in the actor's loss and in the target."""

    name: str = option("rebrac", "policy algorithm")
    layers: int = option(3, "hidden layers of actor and critics", low=1)
    layer_norm: bool = option(True, "LayerNorm in the critics")
    actor_cloning: float = option(0.01, "weight of cloning in the actor's loss", low=0.0)
    critic_cloning: float = option(0.01, "weight of cloning in the target", low=0.0)
    target_noise: float = option(0.2, "noise of the action that targets look at", low=0.0)
    target_clip: float = option(0.5, "most of that noise", low=0.0)
    actor_every: int = option(2, "updates of the critic between those of the actor", low=1)


@dataclass
class IQLOptions(OfflineOptions):
    """Implicit Q-learning (Kostrikov et al., 2022)."""

    name: str = option("iql", "policy algorithm")
    expectile: float = option(0.7, "expectile of the value", low=0.5, high=0.999)
    inverse_temperature: float = option(
        3.0, "how strongly better actions are preferred in cloning", low=0.0
    )
    most_weight: float = option(100.0, "most that an action weighs in cloning", low=1.0)


@dataclass
class SACOptions(OfflineOptions):
    """SAC with N critics; with `diversity`, EDAC; on imagined rows, MOPO and RAVL."""

    name: str = option("sac_n", "policy algorithm")
    critics: int = option(2, "critics, of which the least counts", low=1)
    layer_norm: bool = option(False, "LayerNorm in the critics")
    entropy_bonus: bool = option(True, "targets count the entropy of what follows")
    diversity: float = option(
        0.0, "weight of the likeness of the critics' slopes in the action (EDAC)", low=0.0
    )


@dataclass
class COMBOOptions(SACOptions):
    """COMBO (Yu et al., 2021): values of actions not logged are pushed down."""

    name: str = option("combo", "policy algorithm")
    conservative_scale: float = option(0.5, "weight of pushing values down", low=0.0)
    sampled_actions: int = option(10, "actions of each kind that the push looks at", low=1)


@dataclass
class RAMBOOptions(SACOptions):
    """RAMBO (Rigter et al., 2022): the model learns against the policy."""

    name: str = option("rambo", "policy algorithm")
    adversarial_scale: float = option(3e-4, "weight of the policy's loss in the model's", low=0.0)
    cloning_steps: int = option(500, "first updates, in which the actor only clones", low=0)


@dataclass
class MOBILEOptions(SACOptions):
    """MOBILE (Sun et al., 2023): disagreement on the target is taken off it."""

    name: str = option("mobile", "policy algorithm")
    inconsistency_scale: float = option(0.5, "weight of that disagreement", low=0.0)
    outcomes: int = option(10, "outcomes drawn from each member", low=1)
    positive_returns: bool = option(False, "targets below 0 are 0")
