"""Steps of the decoder as captured graphs: state and kv_cache on the device, the host one launch behind."""
