"""Options of the policy ranking: does the model rank policies as the environment does?"""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option


@dataclass
class PolicyRankingOptions:
    """Returns of several policies and action sequences, in the model and in the environment."""

    rollouts_per_policy: int = option(
        50, "rollouts of each policy, in the model and in the environment (0: no ranking)", low=0
    )
    horizons: list[int] = option(
        [15, 50, 200], "steps after which returns are compared; the last is the headline", low=1
    )
    num_start_states: int = option(
        8, "start states in which action sequences are ranked (0: none)", low=0
    )
    num_action_sequences: int = option(64, "random action sequences per start state", low=2)
    sequence_length: int = option(15, "steps of an action sequence", low=1)
