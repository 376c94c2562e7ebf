"""``make demo``: models compiled ahead of time, loaded, answering as Hugging Face does."""
