"""The report of ``precast bench``: one HTML file that needs nothing else."""
