"""What a checkpoint's tokenizer must be turned into before a runtime without transformers can use it."""
