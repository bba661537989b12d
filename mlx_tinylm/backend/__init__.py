"""How computing is set up, and who computes: MLX or NumPy behind the same few calls."""

DEVICES = ("auto", "cpu", "gpu")  # where MLX may be asked to compute
BACKENDS = ("auto", "mlx", "numpy")  # who may be asked to
