"""Triton kernels for CUDA, each with a plain-torch reference for its tests."""
