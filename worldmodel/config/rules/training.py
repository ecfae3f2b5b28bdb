"""Rules about what is trained, and in which stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldmodel.config import Config, NoPolicy
from worldmodel.config.registry import entry_of


def _joint_training_can_be(config: Config) -> Iterator[str]:
    if not config.training.joint:
        return
    if isinstance(config.policy, NoPolicy):
        yield "training.joint=true: needs a policy, but policy=none"
    if config.model.ema_decay:
        yield (
            f"model.ema_decay={config.model.ema_decay:g}: with training.joint=true the policy learns on the "
            "last parameters, not on their average; accepted: model.ema_decay=0"
        )


def _a_model_is_taken_for_a_policy(config: Config) -> Iterator[str]:
    source = config.training.pretrained_model
    if source and (isinstance(config.policy, NoPolicy) or config.training.joint):
        yield (
            f"training.pretrained_model={source}: a policy is trained on that run's world model; "
            "accepted with a policy other than none, and training.joint=false"
        )


def _something_is_trained(config: Config) -> Iterator[str]:
    if entry_of("model", config.model).target.trainable:
        return
    model = f"model={config.model.name} learns nothing"
    if isinstance(config.policy, NoPolicy):
        yield f"policy=none: {model}, so there is nothing to train; accepted: another policy"
    if config.training.joint:
        yield f"training.joint=true: {model}; accepted: training.joint=false"
    if config.model.ema_decay:
        yield f"model.ema_decay={config.model.ema_decay:g}: {model} to average; accepted: model.ema_decay=0"


TRAINING_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _joint_training_can_be,
    _a_model_is_taken_for_a_policy,
    _something_is_trained,
)
