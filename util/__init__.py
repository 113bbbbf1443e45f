"""Utilities without knowledge of models or datasets: boxes, batches, distributed runs, files."""
