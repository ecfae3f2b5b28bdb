"""Looking at a run's model by hand: beside the real environment, and from logged rows."""
