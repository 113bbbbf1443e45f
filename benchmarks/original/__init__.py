"""The original's algorithms, the baseline of the benchmarks, and the reference in some tests.

Plain eager float32, without anything that this project does for speed. All of it is own code.
"""
