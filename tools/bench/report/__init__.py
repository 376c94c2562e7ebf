"""The report of ``precast bench``: one self-contained HTML file."""
