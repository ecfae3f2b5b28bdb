"""What policies ask of their options, of the model's and of each other. Needs no JAX."""

from __future__ import annotations

from collections.abc import Iterator

from worldmodel.config import (
    COMBOOptions,
    Config,
    EnsembleOptions,
    MOBILEOptions,
    ObservedOptions,
    OfflineOptions,
    OracleOptions,
    RAMBOOptions,
    SACOptions,
)

# What a single member knows nothing of: these would be 0, and worth nothing at any price.
DISAGREEMENTS = (
    "max_pairwise",
    "max_deviation",
    "epistemic_std",
    "log_likelihood_variance",
    "leave_one_out_kl",
)


def imagined_rows_are_there_to_be_priced(config: Config) -> Iterator[str]:
    policy = config.policy
    if not isinstance(policy, OfflineOptions) or policy.real_share < 1:
        return
    for name in ("penalty", "truncate"):
        value = getattr(policy, name)
        if value not in ("none", None):
            yield (
                f"policy.{name}={value}: changes imagined rows, and there are none with "
                "policy.real_share=1; accepted: a share below 1"
            )


def methods_have_their_rows(config: Config) -> Iterator[str]:
    policy, stage = config.policy, config.training.policy
    if not isinstance(policy, OfflineOptions):
        return
    share = f"policy.real_share={policy.real_share:g}: policy={policy.name}"
    if isinstance(policy, RAMBOOptions | MOBILEOptions) and policy.real_share == 1:
        yield f"{share} is about imagined rows, and there are none; accepted: a share below 1"
    rows = stage.batch_size * (stage.window - 1)
    if isinstance(policy, COMBOOptions | RAMBOOptions) and not round(policy.real_share * rows):
        yield (
            f"{share} is held by logged rows, and of the {rows} of a batch none is one; accepted: "
            "a larger share"
        )


def imagined_rows_need_dynamics(config: Config) -> Iterator[str]:
    model, policy = config.model, config.policy
    if not isinstance(model, ObservedOptions) or isinstance(model, OracleOptions):
        return
    if isinstance(policy, OfflineOptions) and policy.real_share < 1:
        yield (
            f"policy.real_share={policy.real_share:g}: model={model.name} cannot imagine; "
            "accepted: policy.real_share=1, or another family"
        )


def members_can_disagree(config: Config) -> Iterator[str]:
    model, policy = config.model, config.policy
    if not isinstance(model, EnsembleOptions) or not isinstance(policy, OfflineOptions):
        return
    members, elites, _, _ = model.sizes()
    asked = {"penalty": policy.penalty}
    if policy.truncate is not None:
        asked["truncate_by"] = policy.truncate_by
    for name, measure in asked.items():
        if measure in DISAGREEMENTS and members < 2:
            yield (
                f"policy.{name}={measure}: says how far members disagree, and there is one; "
                "accepted: model.members of 2 or more"
            )
    if isinstance(policy, MOBILEOptions) and elites < 2:
        yield (
            f"model.elites={elites}: policy=mobile looks at how far elites disagree; accepted: 2 "
            "or more"
        )


def critics_can_be_kept_apart(config: Config) -> Iterator[str]:
    policy = config.policy
    if isinstance(policy, SACOptions) and policy.diversity and policy.critics < 2:
        yield (
            f"policy.diversity={policy.diversity:g}: keeps the slopes of critics apart, and "
            "policy.critics=1; accepted: 2 critics or more, or policy.diversity=0"
        )


POLICY_RULES = (
    imagined_rows_are_there_to_be_priced,
    methods_have_their_rows,
    imagined_rows_need_dynamics,
    members_can_disagree,
    critics_can_be_kept_apart,
)
