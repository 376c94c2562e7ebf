"""Running graphs on CUDA: captured graphs, streams, memory."""
