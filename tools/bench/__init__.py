"""Benchmarks. Each writes one file to ``benchmarks/results/``, from which the tables of the docs are made."""
