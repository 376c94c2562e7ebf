"""Reading what a user brings: checkpoint, tokenizer, sentence-transformers and generation settings."""
