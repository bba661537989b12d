"""`mlx-tinylm play`."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import click

from mlx_tinylm.cli.options import ModelPath, WholeNumber, backend_option
from mlx_tinylm.cli.pages import Fitted


@click.command("play", cls=Fitted)
@click.argument("weights", type=ModelPath(), nargs=-1, metavar="[WEIGHTS ...]")
@click.option("--port", type=WholeNumber(1, 65535), show_default="any that is free", help="The port of the page.")
@click.option("--no-open", is_flag=True, help="Print the page's address only; open no browser.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="serve it",
    help="Write the page as one file, which opens from disk, and end.",
)
@backend_option
@click.pass_context
def play(
    context: click.Context, weights: tuple[Path, ...], port: int | None, no_open: bool, save: Path | None, backend: str
) -> None:
    """Open a page on this machine that shows what a model computes, and what it was at each step.

    The first of WEIGHTS is looked at; the losses of all of them are shown, and the weights they had on the way.
    Without any it is the model that ships, beside the runs in weights/. Ctrl-C ends it.

    \b
    mlx-tinylm play
    mlx-tinylm play weights/run-1            # also while it trains
    mlx-tinylm play weights/run-1 weights/run-2
    mlx-tinylm play --save page.html         # to keep, or to put on the web
    """
    debug = context.find_root().params.get("debug", False)
    from mlx_tinylm.inside.playing import playing, save_play

    if save is not None:
        size = save_play(save, weights, backend)
        return click.echo(
            f"{save}: {size / 1e6:.1f} MB. It opens from disk, or from any web server, without this program."
        )
    with contextlib.suppress(KeyboardInterrupt), playing(weights, backend, port or 0, debug=debug) as page:
        click.echo(f"{page.address}\nCtrl-C ends it.")
        if not no_open and can_open():
            click.launch(page.address)
        page.wait()


def can_open() -> bool:
    """Whether there is a screen to open a browser on; without one a browser for terminals would take over this one."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
