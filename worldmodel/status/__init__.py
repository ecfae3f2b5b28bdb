"""What runs are doing: the heartbeat that a run writes, and the table made of it."""
