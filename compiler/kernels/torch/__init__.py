"""Implementations in plain torch operators, which Inductor fuses to C++."""
