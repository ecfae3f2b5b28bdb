"""Options that all offline algorithms have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worldmodel.config import Config, PolicyOptions, option
from worldmodel.config.registry import entry_of
from worldmodel.imagination.uncertainty import DISAGREEMENTS, UNCERTAINTIES
from worldmodel.models.ensemble import EnsembleOptions


@dataclass
class OfflineOptions(PolicyOptions):
    """What all offline algorithms have: networks, the mix of logged and imagined rows."""

    units: int = option(256, "units of every hidden layer", low=1)
    layers: int = option(2, "hidden layers of actor and critics", low=1)
    actor_lr_scale: float = option(
        1.0, "learning rate of the actor, as a share of training.policy.learning_rate", low=0.0
    )
    discount: float = option(0.99, "discount per step", low=0.0, high=1.0)
    tau: float = option(
        0.005, "rate of the slow copies that targets are made of", low=0.0, high=1.0
    )
    normalize_reward: bool = option(True, "rewards in units of their standard deviation")
    real_ratio: float = option(
        1.0, "share of logged rows in every batch; the others are imagined", low=0.0, high=1.0
    )
    rollout_batch_size: int = option(5000, "logged states that a refresh imagines from", low=1)
    horizon: int = option(5, "imagined steps from every start", low=1)
    rollout_every: int = option(1000, "updates between refreshes of the imagined rows", low=1)
    rollout_retain: int = option(5, "refreshes that imagined rows are kept for", low=1)
    penalty: str = option(
        "none", "uncertainty that costs reward in imagined rows", choices=("none", *UNCERTAINTIES)
    )
    penalty_scale: float = option(
        0.5, "cost of the mean uncertainty on logs, in standard deviations of the reward", low=0.0
    )
    truncation_quantile: float | None = option(
        None,
        "imagined rows end where uncertainty exceeds this quantile of it on logs",
        low=0.0,
        high=1.0,
    )
    truncation_measure: str = option(
        "ensemble_std", "the uncertainty that rows are cut by", choices=tuple(UNCERTAINTIES)
    )

    @property
    def imagined_horizon(self) -> int | None:
        return self.horizon if self.real_ratio < 1 else None

    def check(self, config: Config) -> Iterator[str]:
        if self.real_ratio == 1:
            yield from self._needs_imagined_rows()
        elif not entry_of("model", config.model).target.has_dynamics:
            yield (
                f"policy.real_ratio={self.real_ratio:g}: model={config.model.name} cannot imagine; "
                "accepted: policy.real_ratio=1, or another family"
            )
        if isinstance(config.model, EnsembleOptions):
            yield from self._members_can_disagree(config.model)

    def _needs_imagined_rows(self) -> Iterator[str]:
        for name in ("penalty", "truncation_quantile"):
            value = getattr(self, name)
            if value not in ("none", None):
                yield (
                    f"policy.{name}={value}: changes imagined rows, and there are none with "
                    "policy.real_ratio=1; accepted: a share below 1"
                )

    def _members_can_disagree(self, model: EnsembleOptions) -> Iterator[str]:
        members, _, _, _ = model.sizes()
        asked = {"penalty": self.penalty}
        if self.truncation_quantile is not None:
            asked["truncation_measure"] = self.truncation_measure
        for name, measure in asked.items():
            if measure in DISAGREEMENTS and members < 2:
                yield (
                    f"policy.{name}={measure}: says how far members disagree, and there is one; "
                    "accepted: model.num_members of 2 or more"
                )

    def rows_a_batch(self, config: Config) -> int:
        """Logged rows of a batch of the policy's stage."""
        stage = config.training.policy
        return round(self.real_ratio * stage.batch_size * (stage.window - 1))

    def needs_logged_rows(self, config: Config) -> Iterator[str]:
        """For algorithms that are held by logged rows."""
        if not self.rows_a_batch(config):
            stage = config.training.policy
            rows = stage.batch_size * (stage.window - 1)
            yield (
                f"policy.real_ratio={self.real_ratio:g}: policy={self.name} is held by logged "
                f"rows, and of the {rows} of a batch none is one; accepted: a larger share"
            )

    def needs_imagination(self) -> Iterator[str]:
        """For algorithms that are about imagined rows."""
        if self.real_ratio == 1:
            yield (
                f"policy.real_ratio={self.real_ratio:g}: policy={self.name} is about imagined "
                "rows, and there are none; accepted: a share below 1"
            )
