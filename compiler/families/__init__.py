"""One file a family: ``config.json`` to a ModelSpec, source weight names to parameters."""
