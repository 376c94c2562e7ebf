"""Generation: parameters, pools, the schedule, the steps."""
