"""Dynamic int8 quantization of linear layers: calibration, weights, and a reference layer in plain torch."""
