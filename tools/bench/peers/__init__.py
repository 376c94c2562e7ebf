"""Who is measured: a file for each peer, and one for our own artifacts.

These modules are imported by fresh processes whose start is timed: they import nothing heavy before an engine
is made.
"""
