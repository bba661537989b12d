"""`mlx-tinylm data`, `info` and `bench`: what is there, and how fast it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_tinylm.cli import terminal
from mlx_tinylm.cli.columns import Column, columns, cut_left, terminal_width
from mlx_tinylm.cli.options import ModelPath, json_option
from mlx_tinylm.cli.pages import NARROW, Fitted
from mlx_tinylm.cli.terminal import one_line

if TYPE_CHECKING:
    from mlx_tinylm.info import ModelFacts, TensorFacts, TensorKind


@click.command(cls=Fitted)
@click.argument("name", required=False)
def data(name: str | None) -> None:
    """List the corpora that have a name and what is kept of texts, or fetch one and say where it lies.

    NAME is a corpus, or an http(s) address.

    \b
    mlx-tinylm data
    mlx-tinylm data tinyshakespeare
    mlx-tinylm data https://example.org/book.txt
    """
    from mlx_tinylm.text import fetching, ids_cache
    from mlx_tinylm.text.corpus import open_corpus, open_named
    from mlx_tinylm.text.named_corpora import NAMED

    if name is None:
        click.echo(terminal.table((key, known.about) for key, known in NAMED.items()))
        kept = ids_cache.kept()
        size, limit = kept.bytes / 10**6, kept.limit / ids_cache.GB
        click.echo(
            f"\n{kept.folder} keeps {kept.texts} texts as ids: {size:,.0f} MB; above {limit:g} GB "
            f"({ids_cache.LIMIT}) the longest unused go"
        )
        if fetched := fetching.kept():
            click.echo(f"\n{fetching.folder()} keeps what was fetched from addresses; remove what you do not need:")
            click.echo(terminal.table((url, f"{each.bytes / 10**6:,.1f} MB") for url, each in fetched))
        return
    found = open_corpus([name]) if fetching.is_address(name) else open_named(name)
    rows = [
        ("file", found.sources[0]),
        ("bytes", f"{found.bytes:,}"),
        ("sha256", found.sha256),
        ("characters", f"{found.characters:,}"),
        ("documents", f"{found.documents:,}"),
        ("held out", found.held_out_rule),
        ("alphabet", f"{len(found.alphabet)}: {found.alphabet!r}"),
    ]
    click.echo(terminal.table(rows))


@click.command(cls=Fitted)
@click.argument("weights", type=ModelPath(), required=False)
@click.option("--tensors", is_flag=True, help="List every tensor, not every kind of tensor.")
@json_option
def info(weights: Path | None, tensors: bool, as_json: bool) -> None:
    """Show what a model folder holds; without one, versions, device and matrix library.

    JSON holds all of that.

    \b
    mlx-tinylm info
    mlx-tinylm info weights/run-1
    mlx-tinylm info weights/run-1 --tensors
    """
    from mlx_tinylm.info import model_facts, system_facts

    model = model_facts(weights) if weights else None
    if as_json:
        click.echo(json.dumps(system_facts().to_json() | (model.to_json() if model else {})))
    elif model:
        click.echo(model_tables(model, tensors))
    else:
        click.echo(terminal.table(system_facts().rows()))


def model_tables(model: ModelFacts, each: bool) -> str:
    """The summary of a model, and below it its kinds of tensors, or `each` of them."""
    summary = ((name, f"{value:,}" if isinstance(value, int) else one_line(value)) for name, value in model.rows())
    rows: Sequence[tuple[str, int, TensorFacts | TensorKind]] = (
        [(name, 1, tensor) for name, tensor in model.tensors.items()]
        if each
        else [(kind.name, kind.count, kind) for kind in model.kinds()]
    )
    names, counts, facts = zip(*rows, strict=True)
    width = terminal_width()
    if width and width < NARROW:  # the names of Qwen3's tensors leave no room for a second column
        names = tuple(name.removeprefix("model.").removeprefix("layers.") for name in names)
    found = [  # the last number says how much a column is wanted where room is short
        Column("tensor", names, 9, least=33, cut=cut_left),
        Column("count", [] if each else [str(count) for count in counts], 7, right=True),
        Column("shape", ["x".join(map(str, tensor.shape)) for tensor in facts], 8),
        Column("type", [tensor.type for tensor in facts], 2),
        Column("numbers", [f"{tensor.parameters:,}" for tensor in facts], 5, right=True),
    ]
    return terminal.table(summary) + "\n\n" + "\n".join(columns(found, width))


@click.command(cls=Fitted)
@json_option
def bench(as_json: bool) -> None:
    """Measure how fast this machine trains and writes, in about a minute.

    Nothing else should be at work meanwhile. The table is made to be pasted into an issue.

    \b
    mlx-tinylm bench
    mlx-tinylm bench --json
    """
    from mlx_tinylm.benchmark import measure, measurements

    if as_json:
        click.echo(json.dumps(measure().to_json()))
    else:
        terminal.rows_as_they_come(row for measurement in measurements() for row in measurement.rows())
