"""Experiments that are commands of their own: ``python -m benchmarks.experiments.growth`` etc."""
