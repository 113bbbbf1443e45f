"""The original's algorithms, the baseline of the benchmarks, and the reference in some tests.

Plain eager float32, without the optimizations of this project: an independent implementation, not
the original's code.
"""
