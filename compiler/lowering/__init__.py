"""From a traced graph to a file that the runtime replays. One file a backend."""
