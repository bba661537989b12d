"""`python -m mlx_tinylm` is `mlx-tinylm`."""

from mlx_tinylm.cli.main import main

if __name__ == "__main__":
    main(prog_name="mlx-tinylm")
