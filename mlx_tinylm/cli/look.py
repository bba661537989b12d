"""`mlx-tinylm data`, `info` and `bench`: what is there, and how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mlx_tinylm.cli import terminal
from mlx_tinylm.cli.options import json_option


@click.command()
@click.argument("name", required=False)
def data(name: str | None) -> None:
    """List the corpora that have a name, or fetch one and say where it lies.

    \b
    mlx-tinylm data
    mlx-tinylm data tinyshakespeare
    """
    from mlx_tinylm.text.corpus import open_named
    from mlx_tinylm.text.named_corpora import NAMED

    if name is None:
        click.echo(terminal.table((key, known.about) for key, known in NAMED.items()))
        return
    found = open_named(name)
    rows = [
        ("file", found.sources[0]),
        ("bytes", f"{found.bytes:,}"),
        ("sha256", found.sha256),
        ("characters", f"{found.characters:,}"),
        ("alphabet", f"{len(found.alphabet)}: {found.alphabet!r}"),
    ]
    click.echo(terminal.table(rows))


@click.command()
@click.argument("weights", type=click.Path(path_type=Path), required=False)
@json_option
def info(weights: Path | None, as_json: bool) -> None:
    """Show versions, device and matrix library, and what a model folder holds.

    \b
    mlx-tinylm info
    mlx-tinylm info weights/run-1
    """
    from mlx_tinylm.info import model_facts, system_facts

    system, model = system_facts(), model_facts(weights) if weights else None
    found = model.to_json() if model else {}
    click.echo(json.dumps(system.to_json() | found) if as_json else terminal.facts(dict(system.rows()) | found))


@click.command()
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
