"""`mlx-tinylm export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_tinylm.cli.options import FolderPath, ModelPath
from mlx_tinylm.cli.pages import Fitted
from mlx_tinylm.cli.terminal import table

if TYPE_CHECKING:
    from mlx_tinylm.export.folder import Exported


@click.command(cls=Fitted)
@click.argument("weights", type=ModelPath())
@click.option("--out", type=FolderPath(), required=True, help="The folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    show_default="float32, or float16 with --quantize",
    help="How numbers are stored.",
)
@click.option(
    "--quantize",
    type=click.Choice(["8", "4"]),
    show_default="off",
    help="Bits a number of a matrix, in MLX's format.",
)
@click.option("--gguf", is_flag=True, help="Write the model as one file for llama.cpp, too.")
@click.option("--force", is_flag=True, help="Replace an earlier export in --out, and nothing else there.")
def export(weights: Path, out: Path, dtype: str | None, quantize: str | None, gguf: bool, force: bool) -> None:
    """Write a clean copy of a model that mlx-lm, transformers, LM Studio and NumPy open.

    The copy has a model card and no training state. It is read back and its output compared with the model's own.

    \b
    mlx-tinylm export weights/run-1 --out shakespeare
    mlx-tinylm export weights/run-1 --out shakespeare-4bit --quantize 4
    """
    from mlx_tinylm.export.folder import export

    written = export(weights, out, dtype, int(quantize) if quantize else None, force, gguf)
    click.echo(table(rows(written)))


def rows(written: Exported) -> list[tuple[str, object]]:
    """What `export` wrote, and how near it is to its source."""
    loss = "not compared: the text that the model was trained on is not at hand"
    if found := written.losses:
        loss = f"{found.before:.4f} before, {found.after:.4f} after: {found.text}, {found.part}"
    return [
        ("model folder", written.folder),
        ("size", f"{written.bytes:,} bytes"),
        ("read back", f"logits differ by {written.difference:.2g} at most; they spread by {written.spread:.2f}"),
        ("loss", loss),
        ("how to load it", written.folder / "README.md"),
    ]
