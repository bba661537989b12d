"""Train a tiny language model from scratch with Apple MLX, and use it anywhere."""

__version__ = "0.1.0"
