"""Compilation targets, one module each: a device with the kernels and the backend that serve it."""
