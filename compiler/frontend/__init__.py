"""Readers of a user's model: checkpoint, tokenizer, sentence-transformers and generation settings."""
