"""``make demo``: models are compiled, loaded and compared with Hugging Face."""
