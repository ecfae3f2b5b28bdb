"""Dreams: a world model as an environment, for whatever agent there is.

Gymnasium finds it by `gymnasium.make("worldmodel.dream:worldmodel/Dream-v0", run=PATH)`, which
imports this package first; so does `gymnasium.make_vec`.
"""

import gymnasium

from worldmodel.dream.dream import Dream, DreamState, build_dream
from worldmodel.dream.environment import DreamEnv
from worldmodel.dream.initial_states import InitialStates
from worldmodel.dream.vector import DreamVectorEnv

__all__ = [
    "ENV_ID",
    "InitialStates",
    "Dream",
    "DreamEnv",
    "DreamState",
    "DreamVectorEnv",
    "build_dream",
]

ENV_ID = "worldmodel/Dream-v0"
ENTRY_POINT = "worldmodel.loading:make_dream"  # of one and of many: `num_envs` tells

if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point=ENTRY_POINT, vector_entry_point=ENTRY_POINT)
