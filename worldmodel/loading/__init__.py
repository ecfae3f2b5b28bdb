"""A finished or running run, loaded from its folder."""

from worldmodel.loading.run import LoadedRun, evaluate_run, load, make_dream

__all__ = ["LoadedRun", "make_dream", "evaluate_run", "load"]
