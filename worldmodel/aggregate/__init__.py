"""Finished runs put together: methods over several tasks and training seeds."""
