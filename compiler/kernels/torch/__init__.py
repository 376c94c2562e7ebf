"""Plain torch operators that Inductor fuses into C++."""
