"""What each device computes in its own way on a packed batch: one folder a device, one file an operation."""
