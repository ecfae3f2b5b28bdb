"""Dreams: a world model as an environment, for whatever agent there is.

Gymnasium finds it by `gymnasium.make("worldmodel.dream:worldmodel/Dream-v0", run=PATH)`, which
imports this package first; so does `gymnasium.make_vec`.
"""

import gymnasium

from worldmodel.dream.bank import Bank
from worldmodel.dream.dream import Dream, DreamState, build
from worldmodel.dream.environment import DreamEnv
from worldmodel.dream.vector import DreamVectorEnv

__all__ = ["ID", "Bank", "Dream", "DreamEnv", "DreamState", "DreamVectorEnv", "build"]

ID = "worldmodel/Dream-v0"
MADE_BY = "worldmodel.loading:dreamed"  # of one and of many: `num_envs` tells

if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=MADE_BY, vector_entry_point=MADE_BY)
