"""Linear layers in eight bits: calibration, weights, and the layer that defines the result."""
