"""The Triton kernels of the CUDA backend, each with the plain-torch form that its tests hold it against."""
