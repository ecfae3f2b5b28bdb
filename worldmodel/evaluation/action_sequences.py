"""Action sequences from one state, ranked in the model and in the real environment.

Planning fails where this ranking fails: an error that all sequences share costs nothing. A real
environment is brought to the same state again by the same seed and actions; whether it then
observes the same is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from worldmodel.data.spec import ActionSpec, DataSpec
from worldmodel.data.windows import Window
from worldmodel.environments.real import Observation, RealEnvironment
from worldmodel.evaluation.rank_metrics import ImaginedReturn, RealReturn, regret, spearman
from worldmodel.evaluation.returns import ActFunction, observed_window, run_episodes_in
from worldmodel.evaluation.section import Context
from worldmodel.evaluation.statistics import Annotated, Bootstrap, median, quantiles
from worldmodel.imagination import imagine
from worldmodel.models.interface import WorldModel

MOST_REPLAYED = 50  # steps to a start
HELD = (1, 3, 5)  # steps for which candidates hold an action; the fourth kind holds one throughout
QUARTILES = (0.25, 0.75)


@dataclass(frozen=True)
class ActionSequenceRanking:
    """Over starts: the rank correlation of imagined and real return over `num_action_sequences` of
    `sequence_length` actions, and the regret of the one that the model prefers, as a share of their
    range; medians, with `quartiles` among their details.

    constant_return_starts: starts from which all of them earn the same, which are left out
    unreproducible_starts: starts that the environment did not come back to
    """

    spearman: Annotated
    regret: Annotated
    num_action_sequences: int
    sequence_length: int
    constant_return_starts: int
    unreproducible_starts: int


@dataclass(frozen=True)
class StartStates:
    """S states of an environment, each reached by a seed and actions.

    seeds: (S,); after: (S,) steps taken to each; observations: name -> (S, T, ...) and actions:
    (S, T, ...), raw, row by row up to there; what follows means nothing
    """

    seeds: np.ndarray
    after: np.ndarray
    observations: Observation
    actions: np.ndarray


def rank_action_sequences(
    context: Context, environments: Sequence[RealEnvironment], act: ActFunction
) -> ActionSequenceRanking | None:
    """From states visited by an agent, one for each environment at most; None where no sequence
    earns more than another from any of them.
    """
    options, spec, bootstrap = context.options.policy_ranking, context.spec, context.bootstrap
    sequences, steps = options.num_action_sequences, options.sequence_length
    starts = starts_of(environments, spec, act, options.num_start_states, bootstrap.seed, steps)
    generator = np.random.default_rng([bootstrap.seed, 2])
    plans = np.stack([candidates(generator, spec.action, sequences, steps) for _ in starts.seeds])
    real, reproduced = real_returns(environments[0], spec, starts, plans)
    imagined = imagined_returns(context.model, spec, starts, plans, context.key)
    varies = np.ptp(real.values, 1) > 0
    if not varies.any():
        return None
    pairs = [
        (ImaginedReturn(m), RealReturn(r))
        for m, r in zip(imagined.values[varies], real.values[varies], strict=True)
    ]
    once = np.ones((1, sequences), np.int64)
    ranks, lost = (
        np.array([measure(*pair)(once)[0] for pair in pairs]) for measure in (spearman, regret)
    )
    what = f"of {sequences} sequences of {steps} actions over {len(pairs)} starts"
    return ActionSequenceRanking(
        _over_starts(ranks, f"rank correlation {what}", bootstrap),
        _over_starts(lost, f"regret {what}", bootstrap),
        sequences,
        steps,
        int((~varies).sum()),
        int((~reproduced).sum()),
    )


def _over_starts(values: np.ndarray, what: str, bootstrap: Bootstrap) -> Annotated:
    """The median and the quartiles of values (S,), one a start."""
    clusters = np.arange(len(values))
    found = bootstrap.clustered(median(values), clusters, f"median {what}", "starts")
    spread = quantiles(values, QUARTILES)
    quartiles = bootstrap.clustered_many(spread, clusters, f"quartile {what}", "starts")
    return Annotated(found, {"quartiles": quartiles})


def starts_of(
    environments: Sequence[RealEnvironment],
    spec: DataSpec,
    act: ActFunction,
    count: int,
    seed: int,
    steps: int,
) -> StartStates:
    """States 0 to MOST_REPLAYED steps into episodes of seeds from `seed` on, later ones in later
    episodes, but before an episode's end, and before its limit by the `steps` of a plan.
    """
    rows: list[tuple[Observation, np.ndarray]] = []

    def recorded(
        memory: Any, observation: Observation, seeds: np.ndarray, step: int
    ) -> tuple[Any, np.ndarray]:
        memory, action = act(memory, observation, seeds, step)
        rows.append((observation, np.asarray(action)))
        return memory, action

    lanes = len(environments)  # all of them: one program with what was compiled before
    played = run_episodes_in(environments, spec, recorded, lanes, seed, lanes, MOST_REPLAYED + 1)
    count = min(count, lanes)
    after = np.linspace(0, MOST_REPLAYED, count).round().astype(int)
    after = np.minimum(after, played.lengths[:count] - 1)
    described = environments[0].environment.spec
    limit = None if described is None else described.max_episode_steps
    if limit is not None and limit > 0:
        # A plan that a time-out cuts would be compared with a whole one in the model.
        after = np.minimum(after, max(limit - steps, 0))
    observations = {key: np.stack([o[key] for o, _ in rows], 1) for key in spec.observations}
    actions = np.stack([action for _, action in rows], 1)
    seen = {key: value[:count] for key, value in observations.items()}
    return StartStates(played.seeds[:count], after, seen, actions[:count])


def candidates(
    generator: np.random.Generator, action: ActionSpec, count: int, steps: int
) -> np.ndarray:
    """Raw sequences (count, steps, ...): uniform actions, drawn anew at every step or held for a
    few, since what changes at every step averages out.
    """
    held = np.array([*HELD, steps])[np.arange(count) % (len(HELD) + 1)]
    drawn = np.arange(steps) // held[:, None]
    if action.discrete:
        values = generator.integers(action.size, size=(count, steps)).astype(np.int32)
        return np.take_along_axis(values, drawn, 1)
    values = generator.uniform(-1, 1, (count, steps, action.size)).astype(np.float32)
    values = action.from_unit(values) if action.kind == "mixed" else values
    return action.denormalize(np.take_along_axis(values, drawn[..., None], 1))


def real_returns(
    environment: RealEnvironment, spec: DataSpec, starts: StartStates, plans: np.ndarray
) -> tuple[RealReturn, np.ndarray]:
    """What raw plans (S, K, H, ...) earn, (S, K), and at which starts (S,) the environment always
    observed again what it had. Nothing is earned after an end.
    """
    earned, reproduced = np.zeros(plans.shape[:2]), np.ones(len(plans), bool)
    for s, after in enumerate(starts.after):
        expected = {key: value[s, after] for key, value in starts.observations.items()}
        for k, plan in enumerate(plans[s]):
            seen = environment.reset(int(starts.seeds[s]))
            for action in starts.actions[s, :after]:
                seen = environment.step(action).observation
            reproduced[s] &= all(np.array_equal(seen[key], expected[key]) for key in expected)
            for action in plan:
                outcome = environment.step(action)
                earned[s, k] += outcome.reward
                if outcome.terminated or outcome.truncated:
                    break
    return RealReturn(earned), reproduced


def imagined_returns(
    model: WorldModel, spec: DataSpec, starts: StartStates, plans: np.ndarray, key: jax.Array
) -> ImaginedReturn:
    """The imagined returns (S, K) of raw plans (S, K, H, ...), after the model has observed the
    steps up to each start, times the probability of getting there.
    """
    window = observed_window(starts.observations, spec.action.normalize(starts.actions))
    actions = spec.action.normalize(plans)
    return ImaginedReturn(
        np.asarray(_imagined(model, window, jnp.asarray(starts.after), jnp.asarray(actions), key))
    )


@nnx.jit
def _imagined(
    model: WorldModel, window: Window, after: jax.Array, plans: jax.Array, key: jax.Array
) -> jax.Array:
    observe_key, key = jax.random.split(key)
    count, sequences, steps = plans.shape[:3]
    states = model.observe(window, observe_key)
    states = jax.tree.map(lambda x: jnp.repeat(x[jnp.arange(count), after], sequences, 0), states)
    actions = plans.reshape(count * sequences, *plans.shape[2:])
    rollout = imagine(model, states, actions, steps, key)
    reach = jnp.cumprod(rollout.continues, 1)
    before = jnp.concatenate([jnp.ones_like(reach[:, :1]), reach[:, :-1]], 1)
    return (before * rollout.rewards).sum(1).reshape(count, sequences)
