"""Compares an artifact with Hugging Face (parity) and with its unquantized form (speed)."""
