"""Long trials of the real service, run by `make soak`; the suite runs short ones of the same."""
