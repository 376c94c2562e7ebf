"""What the compiler and the runtime must agree on: signatures, graph_buckets, programs, the packed batch."""
