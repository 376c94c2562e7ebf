"""Decode steps on CUDA: captured graphs, with the state and the KV cache on the device."""
