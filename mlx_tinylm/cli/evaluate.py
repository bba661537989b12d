"""`mlx-tinylm eval`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mlx_tinylm.cli.options import backend_option, json_option, reading_of, reading_options, weights_option
from mlx_tinylm.cli.pages import Page, text_or_weights
from mlx_tinylm.cli.progress import progress_bars
from mlx_tinylm.cli.terminal import table


@click.command("eval", cls=Page, meant=text_or_weights)
@weights_option
@click.option(
    "--data",
    multiple=True,
    metavar="TEXT",
    show_default="what it was trained on",
    help="As for train. What the model was trained on and named corpora count by their held-out part, other text as "
    "a whole.",
)
@reading_options
@click.option("--baselines", is_flag=True, help="Add the losses of 1-gram to 5-gram models of the training text.")
@click.option("--memorised", is_flag=True, help="Add how much of what the model writes stands in the training text.")
@backend_option
@json_option
def evaluate(
    weights: Path, data: tuple[str, ...], encoding: str | None, raw: bool, backend: str, as_json: bool, **more: bool
) -> None:
    """Measure how well a model predicts text: loss, perplexity, bits per character.

    \b
    mlx-tinylm eval
    mlx-tinylm eval --baselines --memorised
    mlx-tinylm eval --weights weights/run-1 --data letters.txt --json
    """
    from mlx_tinylm.evaluation import evaluate_text

    with progress_bars() as watch:
        report = evaluate_text(weights, data, backend, watch=watch, reading=reading_of(encoding, raw), **more)
    click.echo(json.dumps(report.to_json()) if as_json else table(report.rows()))
