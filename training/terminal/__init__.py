"""Terminal output of a run: log lines like the original's, or progress bar and tables."""
