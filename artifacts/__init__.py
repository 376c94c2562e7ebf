"""The artifact on disk: manifest, writer, reader. ``SPEC.md`` beside this file is normative."""
