"""Backends: load the graphs of an artifact and run them."""
