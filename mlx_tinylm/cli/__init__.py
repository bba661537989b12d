"""The command line: the only room that knows click and tqdm."""

from mlx_tinylm.cli.main import main

__all__ = ["main"]
