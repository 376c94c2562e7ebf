"""Benchmarks. Each writes one file to ``benchmarks/results/``; README's tables are made from those."""
