"""Random state, deterministic kernels, and versions of the software."""
