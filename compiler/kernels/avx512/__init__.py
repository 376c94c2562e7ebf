"""Our own C++ kernels for processors with AVX-512, built into the graphs that Inductor compiles."""
