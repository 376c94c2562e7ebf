"""What the compiler and the runtime must agree on: signatures, ladders, programs, the packed batch."""
