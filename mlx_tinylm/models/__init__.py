"""The model families in MLX."""
