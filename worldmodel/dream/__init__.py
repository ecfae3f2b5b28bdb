"""Dreams: a world model as an environment for any agent.

Gymnasium finds it by `gymnasium.make("worldmodel.dream:worldmodel/Dream-v0", run=PATH)`, which
imports this package first; `gymnasium.make_vec` does the same.
"""

import gymnasium

from worldmodel.dream.dream import Dream, DreamState, DreamStep, build_dream
from worldmodel.dream.environment import DreamEnv
from worldmodel.dream.initial_states import InitialStates
from worldmodel.dream.options import DreamOptions
from worldmodel.dream.vector import DreamVectorEnv

__all__ = [
    "ENV_ID",
    "Dream",
    "DreamEnv",
    "DreamOptions",
    "DreamState",
    "DreamStep",
    "DreamVectorEnv",
    "InitialStates",
    "build_dream",
]

ENV_ID = "worldmodel/Dream-v0"
ENTRY_POINT = "worldmodel.loading:make_dream"  # of both: `num_envs` makes a vector environment

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point=ENTRY_POINT, vector_entry_point=ENTRY_POINT)
