"""`mlx-tinylm generate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from mlx_tinylm.cli import terminal
from mlx_tinylm.cli.options import WholeNumber, backend_option, sample_settings, usage, weights_option
from mlx_tinylm.cli.pages import Page, prompt_or_weights
from mlx_tinylm.sample_config import SampleConfig


@click.command(cls=Page, meant=prompt_or_weights)
@weights_option
@click.option("--prompt", show_default="a newline", help="The text to go on from; - reads stdin.")
@sample_settings
@click.option("--num-samples", type=WholeNumber(1), default=1, show_default=True, help="Texts to write.")
@backend_option
def generate(weights: Path, prompt: str | None, num_samples: int, backend: str, **settings: Any) -> None:
    """Write text that goes on from a prompt, as it is made.

    \b
    mlx-tinylm generate --prompt "ROMEO:" --max-tokens 2000
    mlx-tinylm generate --weights weights/run-1 --temperature 0.5 --seed 1
    printf "To be or not to b" | mlx-tinylm generate --prompt - --max-tokens 1
    """
    from mlx_tinylm.backend.choose import load
    from mlx_tinylm.generation import stream_generate

    with usage():
        config = SampleConfig(**settings)
    model, tokenizer = load(weights, backend)
    text = terminal.standard_input() if prompt == "-" else tokenizer.opening if prompt is None else prompt
    for number in range(num_samples):
        seeded = config if config.seed is None else dataclasses.replace(config, seed=config.seed + number)
        pieces = stream_generate(model, tokenizer, text, seeded)
        terminal.stream_text(text, pieces, number, num_samples, model.backend)
