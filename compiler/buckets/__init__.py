"""Bucket sizes: the expected workload, fitting to it, and profiling batches."""
