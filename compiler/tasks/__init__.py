"""What each kind of model needs of the pipeline, one module a kind."""
