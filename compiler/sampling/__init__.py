"""The choice of a token, and what it changes in the state of its row."""
