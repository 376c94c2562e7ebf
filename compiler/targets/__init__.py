"""Compilation targets, one module each: a device with its kernels and its backend."""
