"""Inputs to token ids, token ids to text, and the output classes."""
