"""Training: the plan of a run, its stages, and the loop that trains them."""
