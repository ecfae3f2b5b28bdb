"""What every registered family of world models must do, whatever it does inside.

A new family is in here as soon as it is registered. Where it differs from what is expected of most
(see `Facts`), it gets a line in `FACTS`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import worldmodel
from worldmodel import models
from worldmodel.config import ModelOptions
from worldmodel.config.registry import entries, schemas
from worldmodel.data.spec import ActionSpec, DataSpec, ObservationSpec
from worldmodel.data.windows import Window
from worldmodel.errors import UserError
from worldmodel.imagination import imagine
from worldmodel.models import WorldModel
from worldmodel.policies.actor_critic import ActorCriticOptions, build_heads
from worldmodel.runs.checkpoints import digest, named_leaves
from worldmodel.system.signals import Preempted
from worldmodel.training.dispatch import stage_keys
from worldmodel.training.learners import trained_modules

KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)


# All cases take minutes: python -m pytest -m slow tests/models. A few are part of every run.
slow = pytest.mark.slow


@dataclass(frozen=True)
class Facts:
    """What is expected of a family.

    options: that make it as small as can be
    draws: which of loss, observe and step depend on their key
    images: whether it takes images
    remembers: whether what it believes depends on more than the row at hand
    steps: whether a rollout is made of steps, or drawn as a whole
    learns: whether there is anything to train
    imagines: whether it can step
    measured: names of arrays among its parameters that no gradient moves
    environment: that it knows, and is tried on in place of the point
    """

    options: dict[str, Any] = field(default_factory=dict)
    draws: frozenset[str] = frozenset()
    images: bool = True
    remembers: bool = True
    steps: bool = True
    learns: bool = True
    imagines: bool = True
    measured: tuple[str, ...] = ()
    environment: str | None = None


RSSM = {"deter": 16, "hidden": 8, "classes": 4, "stoch": 4, "depth": 2, "blocks": 2}
ENCODED = {"burn_in": 1, "units": 8, "latent_dim": 8, "depth": 2}
DENOISED = {"latent_dim": 6}
FACTS = {
    "rssm": Facts(RSSM | {"free_nats": 0.0}, draws=frozenset({"loss", "observe", "step"})),
    "koopman": Facts(ENCODED),
    "gru": Facts(ENCODED),
    "mlp": Facts(ENCODED),
    "diffusion": Facts(DENOISED, draws=frozenset({"loss", "step"})),
    "trajectory_diffusion": Facts(
        DENOISED | {"segment_length": 6, "sampler_steps": 3},
        draws=frozenset({"loss", "step"}),
        remembers=False,
        steps=False,
    ),
    "observed": Facts(images=False, remembers=False, learns=False, imagines=False),
    "ensemble": Facts(
        {"num_members": 3, "num_elites": 2, "units": 8, "layers": 1},
        draws=frozenset({"step"}),
        images=False,
        remembers=False,
        measured=("errors", "salt"),
    ),
    "oracle": Facts(
        {"environment": "Pendulum-v1"},
        images=False,
        remembers=False,
        learns=False,
        environment="Pendulum-v1",
    ),
}


@dataclass(frozen=True)
class Case:
    """What is logged of the point, and how models see each vector."""

    observed: tuple[str, ...]
    discrete: bool = False
    rewarded: bool = True
    scaling: dict[str, str] = field(default_factory=dict)


CASES = {
    "vector": Case(("motion",)),
    "classes": Case(
        ("position", "motion"),
        discrete=True,
        scaling={"position": "standardize", "motion": "min_max"},
    ),
    "unrewarded": Case(("motion",), rewarded=False),
    "image": Case(("image",)),
    "mixed": Case(("position", "motion", "image"), discrete=True),
}


FAMILIES = schemas("model")


def facts_of(family: str) -> Facts:
    return FACTS.get(family, Facts())


def options_of(family: str) -> ModelOptions:
    return schemas("model")[family](**facts_of(family).options)


LEARNING = [family for family in FAMILIES if facts_of(family).learns]


def on(*cases: str, always: tuple[str, ...] = (), of: str | None = None) -> Any:
    """Every family on every one of the cases that it takes; on those in `always` in every run.

    of: only the families of which this fact is true
    """
    pairs = [
        pytest.param((family, case), id=f"{family}-{case}", marks=() if case in always else slow)
        for family in FAMILIES
        for case in cases
        if facts_of(family).images or "image" not in CASES[case].observed
        if of is None or getattr(facts_of(family), of)
        if case == "vector" or facts_of(family).environment is None
    ]
    return pytest.mark.parametrize("subject", pairs, indirect=True)


@pytest.fixture(scope="session")
def subjects(
    make_subject: Callable, logs_of_a_point: Callable, logs_of_an_environment: Callable
) -> Callable:
    """(family, case, ...) -> a `Subject`, one for all tests."""

    @cache
    def find(family: str, case: str, *dtype: Any) -> Any:
        what, environment = CASES[case], facts_of(family).environment
        logs = (
            logs_of_an_environment(environment)
            if environment
            else logs_of_a_point(what.observed, what.discrete, what.rewarded)
        )
        subject = make_subject(options_of(family), logs, what.scaling, *dtype)
        subject.facts = facts_of(family)
        return subject

    return find


@pytest.fixture
def subject(request: pytest.FixtureRequest, subjects: Callable) -> Any:
    return subjects(*request.param)


def row(tree: Any, t: int | slice) -> Any:
    return jax.tree.map(lambda x: x[:, t], tree)


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    """Equal but for rounding: to `tolerance` of each number, or of an array's largest one."""

    def check(x: Any, y: Any) -> None:
        largest = max(1.0, float(np.abs(np.asarray(y, float)).max(initial=0.0)))
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * largest)

    jax.tree.map(check, a, b)


def apart(a: Any, b: Any) -> float:
    """The largest difference."""
    differences = jax.tree.map(
        lambda x, y: float(np.abs(np.subtract(x, y, dtype=float)).max()), a, b
    )
    return max(jax.tree.leaves(differences))


def changed(window: Window, rows: slice, fields: tuple[str, ...]) -> Window:
    """The window with other numbers in these fields and rows."""

    def change(x: np.ndarray) -> np.ndarray:
        turned = {"f": -x - 0.3, "i": (x + 1) % 3, "u": 255 - x}[x.dtype.kind].astype(x.dtype)
        within = np.isin(np.arange(x.shape[1]), np.arange(x.shape[1])[rows])
        return np.where(within.reshape(1, -1, *[1] * (x.ndim - 2)), turned, x)

    return replace(window, **{name: jax.tree.map(change, getattr(window, name)) for name in fields})


ALL_FIELDS = ("observation", "action", "reward")

# ----------------------------------------------------------------------------------- the interface


KEPT = {"member_step", "make_step", "rollout", "rollout_policy", "predict_members", "eigenvalues"}


def interface() -> set[str]:
    """What a family has to give: all methods of `WorldModel` but those that it may keep."""
    methods = {name for name, value in vars(WorldModel).items() if inspect.isfunction(value)}
    return {name for name in methods if not name.startswith("_")} - KEPT


def test_what_a_family_lacks_is_named_with_the_family() -> None:
    class Half(WorldModel):
        pass

    assert {"loss", "observe", "step", "features", "reward"} <= interface()
    for name in interface():
        arguments = list(inspect.signature(getattr(Half(), name)).parameters)
        with pytest.raises(NotImplementedError, match=f"Half does not implement `{name}`"):
            getattr(Half(), name)(*arguments)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_lacks_no_method(family: str) -> None:
    found = entries("model")[family].target
    assert issubclass(found, WorldModel)
    facts = facts_of(family)
    said = (found.trainable, found.has_dynamics, found.autoregressive)
    assert said == (facts.learns, facts.imagines, facts.steps)
    assert not {name for name in interface() if getattr(found, name) is getattr(WorldModel, name)}


@on(*CASES)
def test_states_features_and_predictions_have_their_shapes(subject: Any) -> None:
    """States are alike whatever made them, so that a scan can carry them."""
    spec, (batch, rows) = subject.spec, subject.window.shape
    float32 = jnp.dtype("float32")

    def everything(model: WorldModel, window: Window) -> tuple:
        states = model.observe(window, KEY)
        first = row(states, 0)
        initial = [model.initial(axes) for axes in ((batch, rows), (batch,), ())]
        every_row, single = [states], [first]
        if model.has_dynamics:
            every_row.append(model.rollout(first, window.action, KEY))
            single.append(model.step(first, window.action[:, 0], KEY))
        seen = model.observation(states)
        means = {key: prediction.mean() for key, prediction in seen.items()}
        values = [prediction.loss(window.observation[key]) for key, prediction in seen.items()]
        values += [model.terminal(states).mean(), model.terminal(states).loss(window.is_terminal)]
        if spec.has_reward:
            values += [model.reward(states).mean(), model.reward(states).loss(window.reward)]
        features = [model.features(s) for s in (states, first)]
        return initial, every_row, single, features, means, values

    def shapes(tree: Any, dropped: int = 0) -> Any:
        return jax.tree.map(lambda x: (x.shape[dropped:], x.dtype), tree)

    initial, every_row, single, *rest = jax.eval_shape(everything, subject.model, subject.window)
    features, means, values = rest
    assert all(shapes(states) == shapes(initial[0]) for states in every_row)
    assert all(shapes(states) == shapes(initial[1]) for states in single)
    assert shapes(initial[2]) == shapes(initial[1], dropped=1)
    size = subject.model.feature_size
    assert shapes(features) == [((batch, rows, size), float32), ((batch, size), float32)]
    assert shapes(means) == {
        k: ((batch, rows, *o.shape), float32) for k, o in spec.observations.items()
    }
    assert shapes(values) == [((batch, rows), float32)] * len(values)
    assert subject.model.hidden_size > 0


@slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_images_or_says_what_it_accepts(family: str) -> None:
    side = (16, 48)[facts_of(family).images]  # what takes images takes square ones
    spec = DataSpec({"image": ObservationSpec((side, 16, 3), "uint8")}, ActionSpec(True, 3))
    with pytest.raises(UserError, match="accepted|accepts|takes"):
        models.build(options_of(family), spec, KEY)


# -------------------------------------------------------------------------------------- the losses


@on(*CASES, always=("vector",), of="learns")
def test_losses_are_finite_and_every_parameter_takes_gradient(subject: Any) -> None:
    (loss, (metrics, states)), gradient = subject.learn(subject.window, KEY)
    assert {x.dtype for x in jax.tree.leaves(subject.params)} == {jnp.dtype("float32")}
    assert all(x.shape == () and x.dtype == jnp.float32 for x in [loss, *metrics.values()])
    assert float(metrics["loss/total"]) == float(loss)
    assert ("loss/reward" in metrics) == subject.spec.has_reward
    gradient = named_leaves(gradient)
    assert not [name for name, x in {**metrics, **gradient}.items() if not np.isfinite(x).all()]
    # Parts that were trained before are frozen.
    parts = models.pretrained_modules(subject.options, subject.spec) + subject.facts.measured
    silent = {name for name, x in gradient.items() if not np.any(x)}
    assert silent == {name for name in gradient if name.startswith(parts)}
    same(states, subject.observe(subject.window, KEY))  # the loss gives the states of the filter


@on(*CASES, of="learns")
def test_padding_changes_no_loss(subject: Any) -> None:
    """The first episode has four rows. What stands after them is never learned from."""
    assert not subject.window.mask[0, 4:].any() and subject.window.mask[1:].all()
    longer = changed(subject.window, slice(4, None), ALL_FIELDS)
    padded = jax.tree.map(lambda x, y: np.concatenate([y[:1], x[1:]]), subject.window, longer)
    (loss, (metrics, _)), gradient = subject.learn(subject.window, KEY)
    (other_loss, (other_metrics, _)), other_gradient = subject.learn(padded, KEY)
    same((loss, metrics, gradient), (other_loss, other_metrics, other_gradient))


@on("vector", "classes", of="learns")
def test_reward_is_learned_at_the_state_after_the_action(subject: Any) -> None:
    """So that neither a window's last reward nor what was done there is learned from."""
    base = subject.learn(subject.window, KEY)[0][0]

    def moved(t: int, *fields: str) -> bool:
        window = changed(subject.window, slice(t, t + 1), fields)
        return abs(float(subject.learn(window, KEY)[0][0] - base)) > 1e-5 * abs(float(base))

    assert [moved(t, "reward") for t in range(6)] == [True] * 5 + [False]
    assert not moved(5, "action", "reward")


@on("unrewarded")
def test_logs_without_reward_train_a_model_that_says_it_predicts_none(subject: Any) -> None:
    with pytest.raises(UserError, match="without reward"):
        subject.model.reward(subject.model.initial((2,)))


@on("vector", of="learns")
def test_the_shortest_window_trains(subject: Any) -> None:
    """Two rows are the fewest that `window` accepts; a window may begin inside an episode."""
    inside = row(subject.window, slice(2, 4))
    loss = subject.compiled(lambda model, window: model.loss(window, KEY)[0])
    assert np.isfinite(loss(inside))


@slow
@pytest.mark.parametrize("family", LEARNING)
def test_losses_norms_and_parameters_are_float32_under_bfloat16(
    family: str, subjects: Callable
) -> None:
    subject = subjects(family, "vector", jnp.bfloat16)
    (loss, (metrics, states)), gradient = subject.learn(subject.window, KEY)
    leaves = [loss, *metrics.values(), *jax.tree.leaves(gradient)]
    assert {x.dtype for x in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(x).all() for x in leaves)
    reference = subjects(family, "vector").learn(subject.window, KEY)[0][0]
    assert float(loss) == pytest.approx(float(reference), rel=0.1)


# -------------------------------------------------------------------------------------- the filter


@on("vector", "classes", "mixed")
def test_a_filter_does_not_see_what_comes(subject: Any) -> None:
    """Row t is believed given the rows up to t, and what was done before it."""
    states = subject.observe(subject.window, KEY)
    later = subject.observe(changed(subject.window, slice(3, None), ALL_FIELDS), KEY)
    same(row(states, slice(3)), row(later, slice(3)))
    done = subject.observe(changed(subject.window, slice(3, None), ("action", "reward")), KEY)
    same(row(states, slice(4)), row(done, slice(4)))
    assert apart(row(states, 3), row(later, 3)) > 1e-4


@on("vector", "classes", "mixed")
def test_a_reset_forgets_state_and_action(subject: Any) -> None:
    """Where is_first, what was believed and done before changes nothing."""
    window = subject.window
    fresh = subject.observe(window, KEY)
    before = row(subject.observe(changed(window, slice(None), ALL_FIELDS), OTHER_KEY), 4)
    action = changed(window, slice(None), ("action",)).action[:, 4]
    same(fresh, subject.observe(window, KEY, before, action))
    going_on = replace(window, is_first=np.zeros_like(window.mask))
    carried = subject.observe(going_on, KEY, before, action)
    assert (apart(fresh, carried) > 1e-4) == subject.facts.remembers


@on("vector", "classes", "mixed")
def test_a_reset_inside_a_window_starts_afresh(subject: Any) -> None:
    window = replace(subject.window, is_first=subject.window.is_first | (np.arange(6) == 3))
    other = changed(window, slice(3), ALL_FIELDS)
    states, others = subject.observe(window, KEY), subject.observe(other, KEY)
    same(row(states, slice(3, None)), row(others, slice(3, None)))
    assert apart(row(states, 2), row(others, 2)) > 1e-4


@on("vector", "classes")
def test_filtering_in_pieces_equals_one_pass(subject: Any) -> None:
    """Many filters of one record agree in the mean of what is believed and of its square: within
    the error of a sample where the filter draws, else but for rounding.
    """
    count = 1024
    window = jax.tree.map(lambda x: np.repeat(x[-1:], count, 0), subject.window)
    features = subject.compiled(lambda model, states: model.features(states))

    def filtered(pieces: tuple[slice, ...], carry: bool = True) -> np.ndarray:
        state, action = subject.model.initial((count,)), np.zeros_like(window.action[:, 0])
        for key, piece in zip(jax.random.split(KEY, len(pieces)), pieces, strict=True):
            states = subject.observe(row(window, piece), key, state, action)
            if carry:
                state, action = row(states, -1), window.action[:, piece][:, -1]
        seen = features(row(states, -1)).astype(np.float64)
        return np.concatenate([seen, np.square(seen)], -1)

    def close(a: np.ndarray, b: np.ndarray) -> bool:
        error = np.sqrt((a.var(0) + b.var(0)) / count)
        return bool((np.abs(a.mean(0) - b.mean(0)) <= 5 * error + 1e-4).all())

    whole, halves = (slice(0, 6),), (slice(0, 3), slice(3, 6))
    rows = tuple(slice(t, t + 1) for t in range(6))
    assert close(filtered(whole), filtered(halves))
    assert close(filtered(whole), filtered(rows))
    assert close(filtered(whole), filtered(rows, carry=False)) != subject.facts.remembers


# --------------------------------------------------------------------------------- the imagination


@on("vector", "classes", "mixed", of="imagines")
def test_rollout_equals_repeated_steps(subject: Any) -> None:
    """Step t takes the t-th of the keys that the rollout's key is split into. Where rollouts are
    drawn as a whole, a step is one of a single action.
    """
    state = row(subject.observe(subject.window, KEY), 0)
    actions = subject.window.action[:, 1:5]
    if not subject.facts.steps:
        one = subject.rollout(state, actions[:, :1], OTHER_KEY)
        return same(row(one, 0), subject.step(state, actions[:, 0], OTHER_KEY))
    states = subject.rollout(state, actions, OTHER_KEY)
    for t, key in enumerate(jax.random.split(OTHER_KEY, 4)):
        state = subject.step(state, actions[:, t], key)
        same(row(states, t), state)


@on("vector", "classes", "mixed", of="imagines")
def test_actions_matter_to_what_is_imagined(subject: Any) -> None:
    state = row(subject.observe(subject.window, KEY), 0)
    other = changed(subject.window, slice(None), ("action",))
    taken, instead = (w.action[:, :4] for w in (subject.window, other))
    assert apart(subject.rollout(state, taken, KEY), subject.rollout(state, instead, KEY)) > 1e-4


@on("vector")
def test_results_depend_on_the_key_alone_and_only_where_something_is_drawn(subject: Any) -> None:
    state, action = subject.model.initial((4,)), subject.window.action[:, 0]
    functions = {
        "loss": lambda key: subject.learn(subject.window, key)[0][0],
        "observe": lambda key: subject.observe(subject.window, key),
        "step": lambda key: subject.step(state, action, key),
    }
    learns, imagines = subject.facts.learns, subject.facts.imagines
    there = {"loss": learns, "observe": True, "step": imagines}
    for name, function in functions.items():
        if not there[name]:
            with pytest.raises(UserError, match="accepted|choose"):
                function(KEY)
            continue
        same(function(KEY), function(KEY), tolerance=0)
        assert (apart(function(KEY), function(OTHER_KEY)) > 1e-6) == (name in subject.facts.draws)


def imagine_given(model: WorldModel, start: Any, actions: jax.Array) -> Any:
    return imagine(model, start, actions, 4, KEY)


@on("vector", "classes", "mixed", of="imagines")
def test_a_policy_acts_in_what_is_imagined(subject: Any) -> None:
    action = subject.spec.action
    start = row(subject.observe(subject.window, KEY), 2)

    def follow(model: WorldModel, start: Any) -> Any:
        actor, _ = build_heads(ActorCriticOptions(layers=1), model, action, KEY, jnp.float32)
        return imagine(model, start, actor, 4, KEY)

    rollout = subject.compiled(follow)(start)
    assert rollout.features.shape == (4, 5, subject.model.feature_size)
    assert rollout.rewards.shape == rollout.continues.shape == (4, 4)
    assert rollout.actions.shape == ((4, 4) if action.discrete else (4, 4, action.size))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(rollout))
    assert ((rollout.continues >= 0) & (rollout.continues <= 1)).all()
    same(row(rollout.states, 0), start)
    if "step" not in subject.facts.draws:
        same(subject.compiled(imagine_given)(start, rollout.actions), rollout)


@on("vector", of="imagines")
def test_rewards_can_be_followed_back_to_the_actions(subject: Any) -> None:
    start = row(subject.observe(subject.window, KEY), 2)

    def earned(actions: jax.Array, model: WorldModel, start: Any) -> jax.Array:
        return imagine_given(model, start, actions).rewards.sum()

    slopes = subject.compiled(lambda model, start, a: jax.grad(earned)(a, model, start))
    slope = slopes(start, subject.window.action[:, :4])
    assert np.isfinite(slope).all() and np.any(slope, axis=(0, 2)).all()


# ------------------------------------------------------------------------------ training, resuming


def families_of_parts() -> list[str]:
    """Those of which a part is trained before the rest, where there are images."""
    spec = DataSpec({"image": ObservationSpec((16, 16, 1), "uint8")}, ActionSpec(True, 3))
    return [
        family
        for family in FAMILIES
        if models.family(options_of(family)).pretrained_modules(options_of(family), spec)
    ]


TRAINED = [(family, "vector") for family in LEARNING]
TRAINED += [(family, "image") for family in families_of_parts()]


@pytest.fixture(scope="module", params=TRAINED, ids="-".join)
def trained(
    request: pytest.FixtureRequest,
    subjects: Callable,
    train_subject: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A model trained for four updates, and what it took."""
    return train_subject(subjects(*request.param), tmp_path_factory.mktemp("runs"))


@slow
def test_a_stage_is_compiled_once_and_writes_its_losses(trained: Any) -> None:
    assert trained.learner.traces == 1
    rows = [json.loads(line) for line in trained.directory.metrics.read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4]
    assert all(np.isfinite(r["loss/total"]) for r in rows)


@slow
def test_training_moves_every_parameter(trained: Any) -> None:
    began = trained.learner.init(stage_keys(0, "world_model").init)
    before, after = named_leaves(began.params), named_leaves(trained.state.params)
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {f"model.{name}" for name in trained.subject.facts.measured}


@slow
def test_a_stopped_run_ends_in_the_same_bits(
    trained: Any, train_subject: Callable, tmp_path: Path
) -> None:
    with pytest.raises(Preempted, match="saved at step 2"):
        train_subject(trained.subject, tmp_path, stop=True)
    assert digest(train_subject(trained.subject, tmp_path).state) == digest(trained.state)


@slow
def test_a_loaded_model_predicts_what_the_trained_one_does(trained: Any) -> None:
    loaded = worldmodel.load(trained.directory.path)
    kept = replace(loaded, model=trained_modules(trained.learner, trained.state)["model"])
    window = trained.subject.window
    asked = (window.observation, window.action, 3, 3, 2, KEY)
    same(loaded.predict(*asked), kept.predict(*asked), tolerance=0)
