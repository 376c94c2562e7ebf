"""C++ kernels for processors with AVX-512, compiled into the graphs that Inductor generates."""
