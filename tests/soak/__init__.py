"""Long trials of the real service. `make soak` runs them; the suite runs short versions."""
