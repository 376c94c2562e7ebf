"""One file an operation: the plain-torch form that a CPU lowers and that every kernel is held against."""
