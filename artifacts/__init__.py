"""The artifact on disk: its manifest, its writer and its reader. ``SPEC.md`` beside this file is normative."""
