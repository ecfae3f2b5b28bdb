"""Loads finished or running runs from their folders."""

from worldmodel.loading.run import LoadedRun, evaluate_run, load, make_dream

__all__ = ["LoadedRun", "evaluate_run", "load", "make_dream"]
