"""Help texts whose examples fit the terminal; what was meant is tested with the commands."""

from __future__ import annotations

import pytest

from mlx_tinylm.cli.pages import fitted

TEXT = "Train a model on quite a long text.\n\n\b\nmlx-tinylm train --data x   # a look\nmlx-tinylm runs"


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (40, ["mlx-tinylm train --data x   # a look", "mlx-tinylm runs"]),
        (30, ["# a look", "mlx-tinylm train --data x", "mlx-tinylm runs"]),
        (24, ["# a look", "mlx-tinylm train \\", "    --data x", "mlx-tinylm runs"]),
    ],
)
def test_examples_fit(width: int, lines: list[str]) -> None:
    """An example too wide has its comment above it and goes on in the next line; click wraps the rest."""
    assert fitted(TEXT, width).splitlines() == [*TEXT.splitlines()[:3], *lines]
