"""Benchmarks: each measures ratios of two ways to do the same work, in one run. `python -m benchmarks` lists them."""
