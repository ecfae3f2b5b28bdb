"""Whether a whole configuration can run: what its options accept, alone and together.

What families, algorithms and readers require is a method `errors` of their options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from worldmodel.config import Config, NoPolicy, references
from worldmodel.config.data_sources import dataset_errors
from worldmodel.config.environment_ids import form_errors
from worldmodel.config.evaluation_data import data_errors
from worldmodel.config.option import option_errors
from worldmodel.config.registry import SCHEMA_GROUPS, entry_of

DIRECTORY_NAME = re.compile(r"\w[\w.,+=@-]*")


def config_errors(config: Config) -> list[str]:
    """Returns every error of a configuration, a line each; an empty list means that it can run."""
    return list(option_errors(config)) or list(_joint_errors(config))


def _joint_errors(config: Config) -> Iterator[str]:
    groups = {f"{group}.name": getattr(config, group).name for group in SCHEMA_GROUPS}
    for key, name in {"name": config.name, **groups}.items():
        if not DIRECTORY_NAME.fullmatch(name) or len(name.encode()) > 200:
            yield (
                f"{key}={name}: is the name of a directory; accepts letters, digits and "
                "_ . , + = @ -, up to 200 bytes"
            )
    yield from dataset_errors(config.data)
    yield from form_errors(config.model, "model.")
    yield from config.model.errors(config)
    yield from config.policy.errors(config)
    for rule in (_stages, _pretrained_model, _joint_training, _batches_in_pieces, _distributed):
        yield from rule(config)
    if config.evaluation.data is not None:
        yield from data_errors(config.data, config.evaluation.data)
    if error := references.reference_error(config.evaluation):
        yield error
    yield from _planner(config)


def _stages(config: Config) -> Iterator[str]:
    if entry_of("model", config.model).target.trainable:
        return
    model = f"model={config.model.name} has no parameters"
    if isinstance(config.policy, NoPolicy):
        yield f"policy=none: {model}, so there is nothing to train; accepted: another policy"
    if config.training.joint:
        yield f"training.joint=true: {model} to train; accepted: training.joint=false"
    if config.model.ema_decay:
        yield f"model.ema_decay={config.model.ema_decay:g}: {model} to average; accepted: 0"


def _pretrained_model(config: Config) -> Iterator[str]:
    source = config.training.pretrained_model
    if source and (isinstance(config.policy, NoPolicy) or config.training.joint):
        yield (
            f"training.pretrained_model={source}: only a policy stage uses it; "
            "accepted: with a policy other than none and training.joint=false"
        )


def _joint_training(config: Config) -> Iterator[str]:
    if not config.training.joint:
        return
    if isinstance(config.policy, NoPolicy):
        yield "training.joint=true: needs a policy, but policy=none"
    if config.model.ema_decay:
        yield (
            f"model.ema_decay={config.model.ema_decay:g}: with training.joint=true the policy is "
            "trained on the current parameters, not on their average; accepted: 0"
        )


def _batches_in_pieces(config: Config) -> Iterator[str]:
    training = config.training
    given = {
        "gradient_accumulation_steps": training.gradient_accumulation_steps > 1,
        "remat": training.remat,
    }
    for key in (key for key, is_set in given.items() if is_set):
        if training.joint:
            yield f"training.{key}: not supported with training.joint=true"
        elif training.pretrained_model or not entry_of("model", config.model).target.trainable:
            yield f"training.{key}: is for training a world model, and this run trains none"


def _distributed(config: Config) -> Iterator[str]:
    options = config.training.distributed
    if options.coordinator_address is None:
        return
    prefix = "training.distributed."
    if options.process_id >= options.num_processes:
        yield (
            f"{prefix}process_id={options.process_id}: accepts 0 to {options.num_processes - 1}, "
            f"since {prefix}num_processes={options.num_processes}"
        )
    host, _, port = options.coordinator_address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        yield f"{prefix}coordinator_address={options.coordinator_address}: accepts host:port"


def _planner(config: Config) -> Iterator[str]:
    planner = config.evaluation.planner
    if planner.kind == "none":
        return
    key = f"evaluation.planner.kind={planner.kind}"
    if config.data.environment is None:
        yield f"{key}: acts in the real environment; set data.environment, or use kind=none"
    if not entry_of("model", config.model).target.has_dynamics:
        yield (
            f"{key}: plans in imagination, and model={config.model.name} has no dynamics; "
            "accepted: none, or another model"
        )
    yield from planner.errors("evaluation.planner.")
