"""Actions of several parts, numbers and classes, in every family and in the learners of policies.
Shapes alone, which nothing is compiled for; test_conformance.py computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, KEY, VARIANTS, class_of, facts_of, options_of, timestep

from worldmodel import models
from worldmodel.config import StageOptions
from worldmodel.config.registry import entry_of, schemas
from worldmodel.data.loader import pad_episodes
from worldmodel.data.trajectories import Trajectories
from worldmodel.data.windows import Window
from worldmodel.errors import ConfigError
from worldmodel.imagination import imagine
from worldmodel.models.diffusion_base import class_scores
from worldmodel.nn import optimizer
from worldmodel.nn.actions import Mixed, split_vector, vector_entries
from worldmodel.nn.distributions import Categorical, Normal
from worldmodel.policies.actor_critic import ActorCriticOptions, build_heads


@pytest.fixture(scope="module")
def dataset(dataset_of: Callable[[str], Trajectories]) -> Trajectories:
    return dataset_of("parts")


FITTING = [name for name in FAMILIES + VARIANTS if facts_of(name).environment is None]


@pytest.mark.parametrize("family", FITTING)
def test_every_family_learns_and_imagines(family: str, dataset: Trajectories) -> None:
    spec, window = dataset.spec(), pad_episodes(dataset, 6)
    assert spec.action.kind == "mixed" and window.action.shape == (4, 6, 4)

    def outputs(window: Window) -> tuple[Any, ...]:
        model = models.build(options_of(family), spec, KEY)
        loss = model.loss(window, KEY)[0] if model.trainable else jnp.zeros(())
        states = model.observe(window, KEY)
        if not model.has_dynamics:
            return loss, ()
        actor, _ = build_heads(ActorCriticOptions(layers=1), model, spec.action, KEY, jnp.float32)
        start = timestep(states, 2)
        after = model.step(start, window.action[:, 2], KEY)
        return loss, imagine(model, start, actor, 3, KEY), after

    loss, *imagined = jax.eval_shape(outputs, window)
    assert loss.shape == ()
    if class_of(family).has_dynamics:
        assert imagined[0].actions.shape == (4, 3, 4) and imagined[0].actions.dtype == jnp.float32


def test_an_oracle_names_the_actions_of_its_environment(dataset: Trajectories) -> None:
    with pytest.raises(ConfigError, match="actions of 1, the dataset has .* actions of classes"):
        models.build(options_of("oracle"), dataset.spec(), KEY)


def test_scores_of_classes_keep_the_sum_of_each_choice(dataset: Trajectories) -> None:
    """The gradient of sum_i p_i log pi_i in p, without the part that changes the sum of p; the
    gradient of log N in the numbers.
    """
    action = dataset.action_spec
    model = models.build(options_of("trajectory_diffusion"), dataset.spec(), KEY)
    rng, columns = np.random.default_rng(0), vector_entries(action)[0]
    vector = jnp.asarray(rng.normal(size=(5, action.vector_size)), jnp.float32)
    numbers, logits = split_vector(vector, action)
    normal = Normal(numbers, jnp.full_like(numbers, 0.5))
    policy = Mixed(normal, Categorical.from_logits(logits), action)
    score = model.policy_score(policy, jnp.zeros_like(vector))
    for column, count in enumerate(action.classes):
        own = np.asarray(vector)[:, columns == column]
        expected = (own - own.mean(-1, keepdims=True)) / max(count, 1) ** 0.5
        if not count:
            expected = own / 0.5**2 / 3**0.5
        np.testing.assert_allclose(score[:, columns == column], expected, rtol=1e-4, atol=1e-5)
    assert class_scores(policy.classes.log_probabilities, action).shape == vector.shape
    points = model.action_points(jnp.asarray(dataset.actions))
    np.testing.assert_allclose(model.actions_of(points), dataset.actions, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in schemas("policy") if name != "none"])
def test_policies_take_several_classes_or_say_what_they_need(
    name: str, dataset: Trajectories
) -> None:
    spec, options = dataset.spec(), schemas("policy")[name]()
    target, model = entry_of("policy", options).target, models.build(options_of("gru"), spec, KEY)

    def learner() -> Any:
        return target(options, model, spec, optimizer.build(StageOptions(steps=1)), jnp.float32)

    if not target.supports_discrete_actions:
        with pytest.raises(ConfigError, match="has mixed ones; accepted: policy=actor_critic, bc"):
            learner()
        return
    built, window = learner(), pad_episodes(dataset, 6)
    state = jax.eval_shape(built.init, KEY)
    after, metrics = jax.eval_shape(built.update, state, window, KEY)
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics
