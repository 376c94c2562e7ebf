"""The version of precast."""

__version__ = "0.1.0"
