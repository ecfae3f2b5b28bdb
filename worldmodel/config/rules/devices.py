"""Rules about devices and processes that join several options."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldmodel.config import Config
from worldmodel.config.registry import entry_of


def _batches_are_taken_in_pieces(config: Config) -> Iterator[str]:
    training = config.training
    given = {
        "gradient_accumulation_steps": training.gradient_accumulation_steps > 1,
        "remat": training.remat,
    }
    for key in (key for key, is_set in given.items() if is_set):
        if training.joint:
            yield f"training.{key}: not with training.joint=true; accepted: training.joint=false"
        elif training.pretrained_model or not entry_of("model", config.model).target.trainable:
            yield f"training.{key}: no world model is trained here, whose batches it is for"


def _processes_can_meet(config: Config) -> Iterator[str]:
    given = config.training.distributed
    if given.coordinator_address is None:
        return
    if given.process_id >= given.num_processes:
        yield (
            f"training.distributed.process_id={given.process_id}: numbers go from 0 to "
            f"{given.num_processes - 1}, since training.distributed.num_processes={given.num_processes}"
        )
    host, _, port = given.coordinator_address.rpartition(":")
    if not host or not port.isdigit():
        yield f"training.distributed.coordinator_address={given.coordinator_address}: accepts host:port"


DEVICE_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _batches_are_taken_in_pieces,
    _processes_can_meet,
)
