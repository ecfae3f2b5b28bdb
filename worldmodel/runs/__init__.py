"""A run's folder: what lies where, checkpoints, and whether they are whole."""
