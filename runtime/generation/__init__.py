"""Generation: parameters, kv_cache, the schedule, the steps."""
