"""The command line: the only room that knows click."""

from mlx_tinylm.cli.main import main

__all__ = ["main"]
