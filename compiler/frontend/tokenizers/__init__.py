"""Conversions of transformers' tokenizers to what the runtime can use without transformers."""
