"""`mlx-tinylm runs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_tinylm.cli.columns import Column, columns, cut, cut_left, terminal_width, thinned
from mlx_tinylm.cli.options import json_option
from mlx_tinylm.cli.pages import Fitted
from mlx_tinylm.cli.terminal import can_show, note, one_line

if TYPE_CHECKING:
    from mlx_tinylm.run_folder.runs import DamagedRun, Run

DEFAULT = Path("weights")
POINTS = 16  # of a curve
BLOCKS = "▁▂▃▄▅▆▇█"


@click.command(cls=Fitted)
@click.argument("folder", type=click.Path(path_type=Path), default=DEFAULT, metavar="[FOLDER]")
@json_option
def runs(folder: Path, as_json: bool) -> None:
    """List the runs in a folder (weights/, if none is given), the latest last.

    The curve is that of the validation losses.

    \b
    mlx-tinylm runs
    mlx-tinylm runs old-runs --json
    """
    from mlx_tinylm.run_folder.runs import find_runs

    found = [] if folder == DEFAULT and not folder.exists() else find_runs(folder)
    if as_json:
        click.echo(json.dumps([run.to_json() for run in found]))
    elif found:
        click.echo("\n".join(table_of_runs(found, terminal_width())))
    else:
        note(f"{folder}: no runs here yet. Train a model: mlx-tinylm train")


def table_of_runs(found: Sequence[Run | DamagedRun], width: int | None) -> list[str]:
    """A line a run under a line of heads; a damaged run's says why. None is wider than `width`."""
    rows = [_row(run) for run in found]
    names, texts, parameters, steps, states, losses, curves, dates = zip(*rows, strict=True)
    lines = columns(
        [  # from left to right; the last number says how much a column is wanted where room is short
            Column("run", names, 9, least=12),
            Column("text", texts, 4, least=10, cut=cut_left),
            Column("parameters", parameters, 2, right=True),
            Column("steps", steps, 7, right=True),
            Column("", states, 8),
            Column("best loss", losses, 6, right=True),
            Column("curve", curves, 5, least=6, cut=thinned),
            Column("date", dates, 3, least=10, cut=lambda date, width: date if width >= len(date) else date[:10]),
        ],
        width,
    )
    for place, run in enumerate(found, 1):
        if not run.whole:
            line = f"{lines[place]}  damaged: {one_line(run.problem)}"
            lines[place] = line if width is None else cut(line, width)
    return lines


def _row(run: Run | DamagedRun) -> tuple[str, ...]:
    name = one_line(run.folder.name or str(run.folder))
    if not run.whole:
        return (name, *[""] * 7)
    return (
        name,
        one_line(run.text.name),
        f"{run.parameters / 1e6:.2f} M" if run.parameters >= 100_000 else f"{run.parameters:,}",
        f"{run.steps:,}" if run.steps == run.asked else f"{run.steps:,} of {run.asked:,}",
        "" if run.state == "done" else run.state,
        f"{run.best[1]:.4f}" if run.best else "",
        curve([loss for _, loss in run.validations]),
        f"{run.date:%Y-%m-%d %H:%M}",
    )


def curve(losses: Sequence[float]) -> str:
    """Losses as blocks between the lowest and the highest; nothing where standard output cannot show them."""
    if not losses or not can_show(BLOCKS, sys.stdout):
        return ""
    low, high = min(losses), max(losses)
    steps = len(BLOCKS) - 1
    return thinned("".join(BLOCKS[round((loss - low) / ((high - low) or 1.0) * steps)] for loss in losses), POINTS)
