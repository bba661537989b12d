"""What a training run is, on disk (settings, record, metrics) and as events; free of MLX."""
