"""Compares a run's model with the real environment, live, and imagines from logged steps."""
