"""What runs are doing: the heartbeat that a run writes, and a table of the heartbeats of runs."""
