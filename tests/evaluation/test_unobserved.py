"""Evaluations never compare with the placeholder of an observation that was not logged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.config import EvaluationOptions
from worldmodel.data import Episode, stack_episodes
from worldmodel.data.horizons import check_free_run
from worldmodel.errors import DataError
from worldmodel.evaluation.sections.rewards_and_termination import reward_errors
from worldmodel.evaluation.starts import prediction_starts, starts_before_termination
from worldmodel.play.counterfactual_rollouts import LoggedStart, logged_rollout

KINDS = st.lists(
    st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=6
)


def dataset(kinds):
    """Rewards count the steps."""
    return stack_episodes(
        [
            Episode({"x": np.ones((t + logged, 1))}, np.zeros((t, 1)), 1.0 + np.arange(t), ended,
                    final_logged=logged)
            for t, logged, ended in kinds
        ],
        "test",
    )  # fmt: skip


@settings(max_examples=60)
@given(KINDS, st.integers(1, 4), st.sets(st.integers(1, 6), min_size=1))
def test_predictions_end_at_a_logged_observation(kinds, context, horizons):
    data = dataset(kinds)
    options = EvaluationOptions(context=context, horizons=sorted(horizons))
    try:
        reached, starts, _ = prediction_starts(data, options)
    except DataError as error:
        assert "longest held-out episode" in str(error)
        after = [n - 1 - max(min(context - 1, n - 2), 0) for n in data.observed_lengths]
        assert max(after) < min(horizons)
        return
    last = starts.rows + starts.remaining_steps
    assert not np.isin(last, data.placeholders).any()
    assert (
        last == data.offsets[starts.episodes] + data.observed_lengths[starts.episodes] - 1
    ).all()
    assert (starts.rows - starts.context_lengths + 1 >= data.offsets[starts.episodes]).all()
    expected = np.zeros((len(starts), reached[-1]))
    errors, _ = reward_errors(expected, data, data.spec(), starts)
    steps = np.isfinite(errors[0]).sum(1)
    assert (steps == np.minimum(starts.remaining_steps, reached[-1])).all()


def test_terminations_are_evaluated_up_to_the_last_action():
    near = starts_before_termination(dataset([(6, False, True), (6, True, True)]), 3, [2, 4])
    assert near.remaining_steps.tolist() == [2, 4, 2, 4]
    assert near.rows.tolist() == [4, 2, 11, 9]  # steps of episodes of 7 steps


def test_a_record_without_its_last_observation_is_one_step_shorter_in_free_runs():
    options = EvaluationOptions(context=5, free_run=True)
    for kind in ((5, True, False), (6, False, False)):
        data = dataset([kind])
        check_free_run(data, data.spec(), options)
    short = dataset([(5, False, False)])
    with pytest.raises(DataError, match="longest record has 5 steps"):
        check_free_run(short, short.spec(), options)


def test_logged_rollouts_end_before_the_placeholder():
    for logged, left in ((True, 4), (False, 3)):
        start = LoggedStart(dataset([(6, logged, True)]), episode=0, step=2, context=3)
        assert start.steps_left == left
        assert logged_rollout(start, start.steps_left).steps == left
