"""Options of the policy ranking: does the model rank policies as the environment does?"""

from __future__ import annotations

from dataclasses import dataclass

from worldmodel.config.option import option


@dataclass
class PolicyRankingOptions:
    """Policies of different quality, and sequences of actions, each in the model and in the real
    environment.
    """

    rollouts_per_policy: int = option(
        50, "starts of each policy, in either world (0: not judged)", low=0
    )
    horizons: list[int] = option(
        [15, 50, 200], "steps after which returns are compared; the last counts", low=1
    )
    num_start_states: int = option(
        8, "states in which sequences of actions are ranked (0: none)", low=0
    )
    num_action_sequences: int = option(64, "sequences of actions from each of them", low=2)
    sequence_length: int = option(15, "length of a sequence", low=1)
