"""The model families in MLX, to train and to generate; their attribute names are the names of the stored tensors."""
