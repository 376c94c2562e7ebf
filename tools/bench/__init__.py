"""Benchmarks. Each writes one file to ``benchmarks/results/``; the tables of README and docs come from those."""
