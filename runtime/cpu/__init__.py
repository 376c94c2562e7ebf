"""Running graphs on a CPU: threads, memory, direct calls."""
