"""Short output for people at a terminal: the progress bar of a loop and its texts."""
