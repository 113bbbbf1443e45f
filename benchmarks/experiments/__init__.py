"""Experiments with their own commands: ``python -m benchmarks.experiments.growth`` etc."""
