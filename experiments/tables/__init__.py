"""Results of runs, read back and set beside one another."""
