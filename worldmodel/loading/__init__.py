"""A finished or running run, loaded from its folder."""

from worldmodel.loading.run import LoadedRun, dreamed, evaluate_run, load

__all__ = ["LoadedRun", "dreamed", "evaluate_run", "load"]
