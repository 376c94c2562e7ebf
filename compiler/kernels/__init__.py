"""Operators that targets implement differently, one folder each: packed sequences, decode steps, layers."""
