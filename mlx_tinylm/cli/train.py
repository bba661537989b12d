"""`mlx-tinylm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlx_tinylm.backend import DEVICES
from mlx_tinylm.cli.options import (
    FolderPath,
    ModelPath,
    Number,
    flag,
    reading_of,
    reading_options,
    train_settings,
    usage,
)
from mlx_tinylm.cli.pages import TrainPage, text_or_run
from mlx_tinylm.cli.terminal import note
from mlx_tinylm.run_folder.presets import DEFAULT_PRESET, PRESETS, preset


@click.command(cls=TrainPage, meant=text_or_run)
@click.option(
    "--data",
    multiple=True,
    metavar="TEXT",
    show_default="tinyshakespeare",
    help="The name of a corpus, a file (.txt, .md, .jsonl, .parquet, .gz), a folder, an http(s) address, or - for "
    "standard input. May be repeated.",
)
@click.option(
    "--val-data",
    multiple=True,
    metavar="TEXT",
    show_default="a tenth of --data",
    help="What to validate on, as for --data; all of --data is trained on then.",
)
@reading_options
@click.option(
    "--preset",
    "preset_name",
    type=click.Choice(list(PRESETS)),
    show_default=DEFAULT_PRESET,
    help="Settings to start from; the table below shows them.",
)
@click.option(
    "--out",
    type=FolderPath(),
    show_default="a fresh weights/run-N",
    help="The model folder to make.",
)
@click.option(
    "--resume",
    type=ModelPath(),
    show_default="a new run",
    help="Go on with the run in this folder.",
)
@click.option(
    "--init-from",
    type=ModelPath(),
    show_default="random weights",
    help="Start from the weights in this folder.",
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where MLX computes.",
)
@click.option("--force", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--minutes",
    type=Number(0, min_open=True),
    show_default="as --steps says",
    help="Train for about so long, instead of --steps.",
)
@click.option("--extend-alphabet", is_flag=True, help="Give the model of --init-from the characters that it lacks.")
@click.option("--allow-sleep", is_flag=True, help="Let a Mac go to sleep during the run.")
@train_settings
def train(
    data: tuple[str, ...],
    val_data: tuple[str, ...],
    encoding: str | None,
    raw: bool,
    preset_name: str | None,
    out: Path | None,
    resume: Path | None,
    init_from: Path | None,
    device: str,
    force: bool,
    minutes: float | None,
    extend_alphabet: bool,
    allow_sleep: bool,
    **settings: Any,
) -> None:
    """Train a model on text, character by character or in subwords.

    Ctrl-C saves and prints the command that goes on.

    \b
    mlx-tinylm train --preset nano       # a first look, in about a minute
    mlx-tinylm train --minutes 20        # as many steps as fit into that
    mlx-tinylm train --data book.txt --out weights/book
    mlx-tinylm train --data books --tokenizer bpe --vocab-size 4096
    mlx-tinylm train --resume weights/book --steps 2000
    mlx-tinylm train --init-from weights/book --data letters.txt
    mlx-tinylm train --init-from weights/book --data pairs.jsonl    # prompts and completions
    """
    changes = {name: None if value == "off" else value for name, value in settings.items() if value is not None}
    if resume and (out or init_from or force or preset_name or minutes or extend_alphabet):
        raise click.UsageError(
            "--resume goes on in its own folder: leave out --out, --init-from, --extend-alphabet, --force, --preset, "
            "--minutes."
        )
    if resume and (encoding or raw):
        raise click.UsageError("--resume reads the text as the run began: leave out --encoding and --raw.")
    if minutes and "steps" in changes:
        raise click.UsageError("--minutes decides how many --steps there are: leave one of them out.")
    with usage():
        config = preset(preset_name or DEFAULT_PRESET, **changes)
    reading = reading_of(encoding, raw)
    from mlx_tinylm.backend.devices import prepare

    compute = prepare(device, spread=True)  # before MLX is imported, as it is by what follows
    from mlx_tinylm.cli.awake import kept_awake
    from mlx_tinylm.cli.progress import progress_bars
    from mlx_tinylm.cli.training_view import show_training
    from mlx_tinylm.training import resumption, run

    with kept_awake(allow_sleep), progress_bars() as watch:
        if resume:
            opened = resumption.resume(compute, resume, changes, data, val_data=val_data, watch=watch)
        else:
            if minutes:
                note(f"timing a few steps, to see how many take {minutes:g} minutes")
            more: dict[str, Any] = {"init_from": init_from, "force": force, "minutes": minutes}
            more |= {"extend_alphabet": extend_alphabet, "reading": reading, "val_data": val_data}
            opened = run.start(compute, out, config, data, given=changes.keys(), watch=watch, **more)
        show_training(opened, origin(preset_name, init_from, resume, minutes, changes))


def given(name: str, value: object) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, bool):
        return flag(name) if value else f"--no-{flag(name)[2:]}"
    return f"{flag(name)} {'off' if value is None else value}"


def origin(
    preset_name: str | None, init_from: Path | None, resume: Path | None, minutes: float | None, changes: dict[str, Any]
) -> str:
    """Where the settings of a run come from, in a line."""
    parts = ["as the run began"] if resume else [f"preset {preset_name or DEFAULT_PRESET}"]
    parts += [f"the model's shape from {init_from}"] if init_from else []
    parts += [f"steps for {minutes:g} minutes"] if minutes else []
    parts += [given(name, value) for name, value in changes.items()]
    return "; ".join(parts)
