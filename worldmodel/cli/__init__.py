"""The command lines of train.py, its sweeps, and eval.py."""
