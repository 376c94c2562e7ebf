"""Traceable modules, built from a ModelSpec and from nothing else."""
