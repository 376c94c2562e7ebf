"""The engine of encoder artifacts."""
