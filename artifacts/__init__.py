"""Artifacts on disk: manifest, writer and reader. ``SPEC.md`` in this folder is normative."""
