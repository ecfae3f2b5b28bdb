"""Rules about options of models. Needs no JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldmodel.config import (
    RSSM_PRESETS,
    Config,
    DenoisedOptions,
    EnsembleOptions,
    OracleOptions,
    RSSMOptions,
    TrajectoryDiffusionOptions,
)


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


def _oracles_know_their_environment(config: Config) -> Iterator[str]:
    if isinstance(config.model, OracleOptions) and not config.model.environment:
        yield "model.environment needs a Gymnasium id, such as model.environment=HalfCheetah-v5"


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


MODEL_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _blocks_divide_the_recurrent_state,
    _pieces_are_as_long_as_those_trained,
    _samplers_have_levels,
    _oracles_know_their_environment,
    _ensembles_have_their_elites,
)
