"""Whether a whole configuration can run: rules that join several options. Needs no JAX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from worldmodel.config import Config
from worldmodel.config.rules.data import DATA_RULES
from worldmodel.config.rules.devices import DEVICE_RULES
from worldmodel.config.rules.evaluation import EVALUATION_RULES
from worldmodel.config.rules.models import MODEL_RULES
from worldmodel.config.rules.policies import POLICY_RULES
from worldmodel.config.rules.training import TRAINING_RULES
from worldmodel.config.values import walk

DIRECTORY_NAME = re.compile(r"\w[\w.,+=@-]{0,199}")


def check(config: Config) -> list[str]:
    """Returns every fault of a configuration, one line each; none means it can run."""
    faults = [fault for option, value in walk(config) if (fault := option.fault(value))]
    return faults or [line for rule in RULES for line in rule(config)]


def _names_are_directory_names(config: Config) -> Iterator[str]:
    for key, name in (("name", config.name), ("data.name", config.data.name)):
        if not DIRECTORY_NAME.fullmatch(name):
            yield f"{key}={name}: names a directory; accepts letters, digits and _ . , + = @ -"


def _data_can_be_read(config: Config) -> Iterator[str]:
    yield from (line for rule in DATA_RULES for line in rule(config.data))


RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _names_are_directory_names,
    _data_can_be_read,
    *MODEL_RULES,
    *EVALUATION_RULES,
    *TRAINING_RULES,
    *POLICY_RULES,
    *DEVICE_RULES,
)
