"""Benchmarks and a smoke test for a GPU; on a CPU they run for the tests only.

python -m benchmarks cuda.speed memory inference training_step criterion --device cuda
python -m benchmarks.cuda.smoke --device cuda
"""
