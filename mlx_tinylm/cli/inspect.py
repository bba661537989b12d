"""`mlx-tinylm inspect`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_tinylm.checks import check
from mlx_tinylm.cli import terminal
from mlx_tinylm.cli.options import ModelPath, backend_option, json_option, or_shipped
from mlx_tinylm.cli.pages import Fitted
from mlx_tinylm.errors import TinyLMError

if TYPE_CHECKING:
    from mlx_tinylm.inside.payload import Payload
    from mlx_tinylm.inside.subject import Subject

PROMPT = 120  # characters of held-out text, at most, where no prompt is given


class HeadNumber(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """LAYER.HEAD, both from 1 as they are shown; from 0 inside."""

    name = "layer.head"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        found = re.fullmatch(r"0*([1-9]\d{0,5})\.0*([1-9]\d{0,5})", str(value), re.ASCII)
        if not found:
            self.fail(f"{str(value)[:40]!r} is no head; the second head of layer 3 is 3.2.", param, ctx)
        return int(found[1]) - 1, int(found[2]) - 1


def chosen(context: click.Context, argument: click.Parameter, weights: Path | None) -> Path:
    """The folder that is meant; a prompt without its option is told by its not being there."""
    if weights is not None and not weights.exists():
        near = f"mlx-tinylm inspect --prompt {shlex.quote(str(weights))}"
        raise TinyLMError(f"{weights}: no such folder; a prompt stands behind its option: {near}")
    return or_shipped(context, argument, weights)


@click.command("inspect", cls=Fitted)
@click.argument("weights", type=ModelPath(), required=False, callback=chosen)
@click.option(
    "--prompt", show_default="lines that the model was not trained on", help="The text to read; - reads stdin."
)
@click.option(
    "--head-off",
    type=HeadNumber(),
    multiple=True,
    show_default="none",
    help="Switch a head off; may be given several times.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="show it here",
    help="Write a page that shows it, to be opened from disk.",
)
@backend_option
@json_option
def inspect(
    weights: Path,
    prompt: str | None,
    head_off: tuple[tuple[int, int], ...],
    html: Path | None,
    backend: str,
    as_json: bool,
) -> None:
    """Look inside a model: what it expects, how it comes to it, and what its heads look at.

    \b
    mlx-tinylm inspect --prompt "ROMEO:"
    mlx-tinylm inspect weights/run-1 --prompt "To be or not to b" --head-off 2.4
    mlx-tinylm inspect --json --prompt "ROMEO:"
    """
    from mlx_tinylm.inside.subject import Subject

    subject = Subject.open(weights, backend)
    text = terminal.standard_input() if prompt == "-" else prompt
    ids = subject.encode(text) if text is not None else subject.held_out(PROMPT)
    if len(ids) > subject.longest:
        terminal.note(
            f"note: the prompt has {len(ids):,} {subject.unit}s, and {subject.longest:,} can be read at once: "
            f"these are its last {subject.longest:,}"
        )
        ids = ids[-subject.longest :]
    for layer, head in head_off:
        c = subject.model.config
        here = layer < c.layers and head < c.heads
        check(here, f"no head {layer + 1}.{head + 1} here: the last one is {c.layers}.{c.heads}")
    payload = subject.look(ids, head_off)
    if html is not None:
        from mlx_tinylm.inside.saved_page import save_page

        size = save_page(html, subject, payload)
        terminal.note(f"{html}: {size / 1e6:.1f} MB. It opens from disk, or from any web server, without this program.")
    if as_json:
        click.echo(json.dumps(payload.to_json()))
    elif html is None:
        show(subject, payload)


def show(subject: Subject, payload: Payload) -> None:
    """Print the view for the terminal."""
    from mlx_tinylm.cli.inspect_style import Style
    from mlx_tinylm.cli.inspect_view import inspection

    whole = subject.look(payload.tensors["ids"].tolist()) if payload.meta["heads_off"] else None
    click.echo(inspection(payload, Style.here(), why_no_counter=subject.why_no_counter, whole=whole))
