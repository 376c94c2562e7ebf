"""The task-specific parts of the pipeline, one module for each kind of model."""
