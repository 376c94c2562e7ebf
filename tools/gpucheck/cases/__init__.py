"""Drawn calls of the kernels, a file for each of ``compiler/kernels/cuda`` that defines operators."""
