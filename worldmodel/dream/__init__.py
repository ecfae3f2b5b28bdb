"""Dreams: a world model as an environment, for whatever agent there is."""

from worldmodel.dream.bank import Bank
from worldmodel.dream.dream import Dream, DreamState, build
from worldmodel.dream.environment import DreamEnv
from worldmodel.dream.vector import DreamVectorEnv

__all__ = ["Bank", "Dream", "DreamEnv", "DreamState", "DreamVectorEnv", "build"]
