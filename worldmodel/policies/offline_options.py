"""Options that all offline algorithms share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from worldmodel.config import Config, PolicyOptions, option
from worldmodel.config.registry import entry_of
from worldmodel.imagination.uncertainty import DISAGREEMENTS, UNCERTAINTIES


@dataclass
class OfflineOptions(PolicyOptions):
    """Networks, targets, and the mix of dataset and imagined transitions."""

    compose_with: ClassVar = ("shared/offline", {"override /model": "observed"})
    # Whether the algorithm is undefined without transitions of the dataset, or imagined ones.
    needs_dataset: ClassVar[bool] = False
    needs_rollouts: ClassVar[bool] = False

    units: int = option(256, "units of every hidden layer", low=1)
    layers: int = option(2, "hidden layers of actor and critics", low=1)
    actor_lr_scale: float = option(
        1.0, "learning rate of the actor, as a share of training.policy.learning_rate", low=0.0
    )
    discount: float = option(0.99, "discount per step", low=0.0, high=1.0)
    tau: float = option(0.005, "update rate of the target networks", low=0.0, high=1.0)
    normalize_reward: bool = option(True, "divide rewards by their standard deviation")
    real_ratio: float = option(
        1.0, "share of dataset transitions in a batch; the rest are imagined", low=0.0, high=1.0
    )
    rollout_batch_size: int = option(5000, "imagined rollouts of a refresh", low=1)
    horizon: int = option(5, "steps of an imagined rollout", low=1)
    rollout_every: int = option(1000, "updates between refreshes of the imagined data", low=1)
    rollout_retain: int = option(5, "refreshes that imagined data is kept for", low=1)
    penalty: str = option(
        "none", "uncertainty subtracted from imagined rewards", choices=("none", *UNCERTAINTIES)
    )
    penalty_scale: float = option(
        0.5, "penalty at the dataset's mean uncertainty, in standard deviations of reward", low=0.0
    )
    truncation_quantile: float | None = option(
        None, "truncate where uncertainty exceeds this quantile of the dataset's", low=0.0, high=1.0
    )
    truncation_measure: str = option(
        "ensemble_std", "uncertainty that truncates rollouts", choices=tuple(UNCERTAINTIES)
    )

    @property
    def imagined_horizon(self) -> int | None:
        return self.horizon if self.real_ratio < 1 else None

    def errors(self, config: Config) -> Iterator[str]:
        ratio = f"policy.real_ratio={self.real_ratio:g}"
        if self.real_ratio == 1:
            if self.needs_rollouts:
                yield (
                    f"{ratio}: policy={self.name} needs imagined transitions; accepted: "
                    "policy.real_ratio below 1"
                )
            for name in ("penalty", "truncation_quantile"):
                if (value := getattr(self, name)) not in ("none", None):
                    yield (
                        f"policy.{name}={value}: applies to imagined transitions only, and "
                        "policy.real_ratio=1 uses none; accepted: policy.real_ratio below 1"
                    )
        elif not entry_of("model", config.model).target.has_dynamics:
            yield (
                f"{ratio}: model={config.model.name} has no dynamics to imagine with; accepted: "
                "policy.real_ratio=1, or another model"
            )
        size = config.training.policy.batch_size * (config.training.policy.window - 1)
        if self.needs_dataset and not round(self.real_ratio * size):
            yield (
                f"{ratio}: policy={self.name} needs dataset transitions, and none of the {size} of "
                "a batch is one; accepted: a larger share"
            )
        if config.model.ensemble_size is not None and config.model.ensemble_size[0] < 2:
            measures = {"penalty": self.penalty}
            if self.truncation_quantile is not None:
                measures["truncation_measure"] = self.truncation_measure
            for name, measure in measures.items():
                if measure in DISAGREEMENTS:
                    yield (
                        f"policy.{name}={measure}: measures the disagreement of members, and the "
                        "ensemble has one; accepted: model.num_members of 2 or more"
                    )
