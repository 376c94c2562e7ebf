"""Running a graph on its static buffers."""
