"""Whether a whole configuration can run: what options accept together.

What families, algorithms and readers ask of their options stands with these, as `check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from worldmodel.config import Config
from worldmodel.config.rules.devices import DEVICE_RULES
from worldmodel.config.rules.evaluation import EVALUATION_RULES
from worldmodel.config.rules.training import TRAINING_RULES
from worldmodel.config.values import iter_options

DIRECTORY_NAME = re.compile(r"\w[\w.,+=@-]{0,199}")
RULES = (*EVALUATION_RULES, *TRAINING_RULES, *DEVICE_RULES)


def validate_config(config: Config) -> list[str]:
    """Returns every fault of a configuration, one line each; none means it can run."""
    faults = [fault for option, value in iter_options(config) if (fault := option.error_in(value))]
    return faults or list(_joint_faults(config))


def _joint_faults(config: Config) -> Iterator[str]:
    for key, name in (("name", config.name), ("data.name", config.data.name)):
        if not DIRECTORY_NAME.fullmatch(name):
            yield f"{key}={name}: names a directory; accepts letters, digits and _ . , + = @ -"
    yield from config.data.check()
    yield from config.model.check(config)
    yield from config.policy.check(config)
    yield from (line for rule in RULES for line in rule(config))
