"""The model families in NumPy, inference only: where MLX is not, and where it has only a CPU to generate on."""
