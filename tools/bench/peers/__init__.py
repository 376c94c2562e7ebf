"""The contenders of ``precast bench``: one module for each peer, and one for precast artifacts.

Processes whose cold start is timed import these modules, so they import nothing heavy before an engine is
made.
"""
