"""Model families, one file each: maps ``config.json`` to a spec and weight names to parameters."""
