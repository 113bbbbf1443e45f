"""Random state, deterministic algorithms, and versions of code and packages."""
