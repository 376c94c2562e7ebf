"""Steps of the decoder as captured graphs: state and pools on the device, the host one launch behind."""
