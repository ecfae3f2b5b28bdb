"""What every option accepts, and whether a configuration keeps to it. Needs no JAX.

An option's type comes from its annotation, its limits from the metadata of `config.option`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from omegaconf import MISSING

from worldmodel import references
from worldmodel.config import (
    RSSM_PRESETS,
    SCHEMAS,
    Config,
    DenoisedOptions,
    EnsembleOptions,
    NoPolicy,
    ObservedOptions,
    OracleOptions,
    RSSMOptions,
    TrajectoryDiffusionOptions,
)
from worldmodel.data_rules import DATA_RULES
from worldmodel.device_rules import DEVICE_RULES
from worldmodel.errors import ConfigError, nearest
from worldmodel.policy_rules import POLICY_RULES

MOST_FAULTS = 10  # a longer list hides the first mistake, which often caused the others
DIRECTORY_NAME = re.compile(r"\w[\w.,+=@-]{0,199}")
TYPE_NAMES = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    dict: "options {KEY: VALUE, ...}",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its dotted key, and what its dataclass field says of it."""

    key: str
    type: type
    is_list: bool = False
    optional: bool = False
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None

    @classmethod
    def of(cls, key: str, annotation: Any, metadata: typing.Mapping[str, Any]) -> Option:
        """Reads an annotation of the forms `int`, `int | None`, `list[int]`, `dict[str, Any]`."""
        optional = isinstance(annotation, types.UnionType)
        if optional:
            annotation = next(t for t in typing.get_args(annotation) if t is not types.NoneType)
        is_list = typing.get_origin(annotation) is list
        element = typing.get_args(annotation)[0] if is_list else annotation
        element = typing.get_origin(element) or element  # options by name are a dict, of any values
        return cls(key, element, is_list, optional, **metadata)

    @property
    def accepts(self) -> str:
        """The accepted values in words, such as 'integer, 1 or more, or null'."""
        words = TYPE_NAMES[self.type]
        limits = self._limits()
        if self.is_list:
            words = f"list [a,b,...] of {words}s" + (f", each {limits}" if limits else "")
        elif self.choices:
            words = limits
        elif limits:
            words += f", {limits}"
        return words + (", or null" if self.optional else "")

    def _limits(self) -> str:
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            return f"{self.low:.10g} to {self.high:.10g}"
        if self.low is not None:
            return f"{self.low:.10g} or more"
        return "" if self.high is None else f"at most {self.high:.10g}"

    def convert(self, value: Any) -> Any:
        """Returns `value` in the option's type where nothing is lost, else unchanged."""
        if isinstance(value, list | tuple):
            return [dataclasses.replace(self, is_list=False).convert(v) for v in value]
        if isinstance(value, bool):
            return str(value).lower() if self.type is str else value
        if self.type is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if self.type is float and isinstance(value, int):
            return float(value)
        if self.type is str and isinstance(value, int | float):
            return str(value)
        return value

    def fault(self, value: Any) -> str | None:
        """Returns what is wrong with `value` as one line, or None."""
        if isinstance(value, str) and value == MISSING:
            return f"{self.key} needs a value: {self.accepts}"
        if value is None and self.optional:
            return None
        if isinstance(value, list) == self.is_list:
            elements = value if self.is_list else [value]
            if elements and all(self._takes(element) for element in elements):
                return None
        hint = nearest(str(value), self.choices) if self.choices else ""
        return f"{self.key}={shown(value)}: accepts {self.accepts}{hint}"

    def _takes(self, value: Any) -> bool:
        if type(value) is not self.type:
            return False
        if self.choices and value not in self.choices:
            return False
        if self.type in (int, float):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            return math.isfinite(value) and low <= value <= high
        return True


def shown(value: Any) -> str:
    """A value as a user would write it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "[" + ",".join(shown(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {shown(v)}" for key, v in value.items()) + "}"
    return str(value)


def walk(options: Any, prefix: str = "") -> Iterator[tuple[Option, Any]]:
    """Yields every option below a dataclass instance, with its value."""
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        key, value = prefix + field.name, getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, key + ".")
        elif dataclasses.is_dataclass(hints[field.name]):  # a group that was not chosen
            yield Option(key, str), value
        else:
            yield Option.of(key, hints[field.name], field.metadata), value


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Says that `key` is no option: the nearest one, and what its level accepts."""
    known = list(known)
    level, _, leaf = key.rpartition(".")
    twins = [k for k in known if k.rpartition(".")[2] == leaf]
    close = twins or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    message = f"{key}: no such option"
    if elsewhere := _other_schemas(key):
        message += f" here; it belongs to {' and '.join(elsewhere)}"
    elif close:
        message += f" (did you mean {' or '.join(repr(k) for k in close[:3])}?)"
    prefix = level + "." if level else ""
    siblings = {k[len(prefix) :].split(".")[0] for k in known if k.startswith(prefix)}
    if siblings:
        message += f"\n  {level or 'the top level'} accepts: {', '.join(sorted(siblings))}"
    return message


def _other_schemas(key: str) -> list[str]:
    group, _, rest = key.partition(".")
    return [
        f"{group}={name}"
        for name, schema in SCHEMAS.get(group, {}).items()
        if any(option.key == rest for option, _ in walk(schema()))
    ]


# ------------------------------------------------------------------------------- the whole config


def check(config: Config) -> list[str]:
    """Returns every fault of a configuration, one line each; none means it can run."""
    faults = [fault for option, value in walk(config) if (fault := option.fault(value))]
    return faults or [line for rule in RULES for line in rule(config)]


def refuse(faults: Iterable[str]) -> None:
    """Raises ConfigError if there are faults, with the first few of them, a line each."""
    faults = list(dict.fromkeys(faults))
    if not faults:
        return
    left_out = len(faults) - MOST_FAULTS
    more = [f"... and {left_out} more"] if left_out > 0 else []
    raise ConfigError("\n".join(faults[:MOST_FAULTS] + more))


def _names_are_directory_names(config: Config) -> Iterator[str]:
    for key, name in (("name", config.name), ("data.name", config.data.name)):
        if not DIRECTORY_NAME.fullmatch(name):
            yield f"{key}={name}: names a directory; accepts letters, digits and _ . , + = @ -"


def _data_can_be_read(config: Config) -> Iterator[str]:
    yield from (line for rule in DATA_RULES for line in rule(config.data))


def _judged_data_can_be_read(config: Config) -> Iterator[str]:
    from worldmodel.judged_data import faults  # which stands on this file

    if config.evaluation.data is not None:
        yield from faults(config.data, config.evaluation.data)


def _blocks_divide_the_recurrent_state(config: Config) -> Iterator[str]:
    model = config.model
    if not isinstance(model, RSSMOptions):
        return
    preset = RSSM_PRESETS[model.preset]
    deter = preset["deter"] if model.deter is None else model.deter
    blocks = preset["blocks"] if model.blocks is None else model.blocks
    if deter % blocks:
        origin = f" (of preset {model.preset})" if model.deter is None else ""
        yield f"model.deter={deter}{origin}: must be divisible by model.blocks={blocks}"


def _pieces_are_as_long_as_those_trained(config: Config) -> Iterator[str]:
    model, window = config.model, config.training.world_model.window
    if isinstance(model, TrajectoryDiffusionOptions) and model.rows > window:
        yield (
            f"model.rows={model.rows}: pieces are cut from training.world_model.window={window} "
            "rows, and can be no longer"
        )


def _samplers_have_levels(config: Config) -> Iterator[str]:
    model = config.model
    if isinstance(model, DenoisedOptions) and model.noise_low >= model.noise_high:
        yield (
            f"model.noise_low={model.noise_low:g} must be below model.noise_high="
            f"{model.noise_high:g}"
        )
    if isinstance(model, DenoisedOptions) and model.churn and model.churn_low > model.churn_high:
        yield (
            f"model.churn_low={model.churn_low:g} is above model.churn_high={model.churn_high:g}: "
            "no noise would be added anew"
        )


def _scores_have_their_reference(config: Config) -> Iterator[str]:
    if wrong := references.fault(config.evaluation):
        yield wrong


def _planners_have_what_they_need(config: Config) -> Iterator[str]:
    planner = config.evaluation.planner
    if planner.kind == "none":
        return
    if config.data.environment is None:
        yield (
            f"evaluation.planner.kind={planner.kind}: acts in the real environment, and "
            "data.environment names none"
        )
    if type(config.model) is ObservedOptions:
        yield (
            f"evaluation.planner.kind={planner.kind}: plans in imagination, and "
            f"model={config.model.name} has no dynamics; accepted: none, or another model"
        )
    if planner.elites > planner.samples:
        yield (
            f"evaluation.planner.elites={planner.elites}: they are chosen from "
            f"evaluation.planner.samples={planner.samples}, and can be no more"
        )


def _joint_training_can_be(config: Config) -> Iterator[str]:
    if not config.training.joint:
        return
    if isinstance(config.policy, NoPolicy):
        yield "training.joint=true: needs a policy, but policy=none"
    if config.model.ema:
        yield (
            f"model.ema={config.model.ema:g}: with training.joint=true the policy learns on the "
            "last parameters, not on their average; accepted: model.ema=0"
        )
    if isinstance(config.model, TrajectoryDiffusionOptions) and not config.model.hold_start:
        yield "model.hold_start=false: training.joint=true needs rollouts from the logged states"


def _a_model_is_taken_for_a_policy(config: Config) -> Iterator[str]:
    source = config.training.model_from
    if source and (isinstance(config.policy, NoPolicy) or config.training.joint):
        yield (
            f"training.model_from={source}: a policy is trained on that run's world model; "
            "accepted with a policy other than none, and training.joint=false"
        )


def _oracles_know_their_environment(config: Config) -> Iterator[str]:
    if isinstance(config.model, OracleOptions) and not config.model.environment:
        yield "model.environment needs a Gymnasium id, such as model.environment=HalfCheetah-v5"


def _something_is_trained(config: Config) -> Iterator[str]:
    if not isinstance(config.model, ObservedOptions):
        return
    model = f"model={config.model.name} learns nothing"
    if isinstance(config.policy, NoPolicy):
        yield f"policy=none: {model}, so there is nothing to train; accepted: another policy"
    if config.training.joint:
        yield f"training.joint=true: {model}; accepted: training.joint=false"
    if config.model.ema:
        yield f"model.ema={config.model.ema:g}: {model} to average; accepted: model.ema=0"


def _ensembles_have_their_elites(config: Config) -> Iterator[str]:
    model = config.model
    if not isinstance(model, EnsembleOptions):
        return
    members, elites, _, _ = model.sizes()
    if elites > members:
        yield f"model.elites={elites}: the elites are some of model.members={members}"
    if not model.holdout:
        return
    if model.ema:
        yield (
            f"model.ema={model.ema:g}: with model.holdout={model.holdout:g} each member's best "
            "parameters are used, not an average; accepted: model.ema=0 or model.holdout=0"
        )
    if config.training.joint:
        yield (
            f"model.holdout={model.holdout:g}: with training.joint=true the policy learns on the "
            "last parameters, not on each member's best; accepted: model.holdout=0"
        )


RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _names_are_directory_names,
    _data_can_be_read,
    _judged_data_can_be_read,
    _blocks_divide_the_recurrent_state,
    _pieces_are_as_long_as_those_trained,
    _samplers_have_levels,
    _planners_have_what_they_need,
    _scores_have_their_reference,
    _joint_training_can_be,
    _a_model_is_taken_for_a_policy,
    _oracles_know_their_environment,
    _something_is_trained,
    _ensembles_have_their_elites,
    *POLICY_RULES,
    *DEVICE_RULES,
)
