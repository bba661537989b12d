"""Help pages that fit the terminal, and words for what is given without its option."""

from __future__ import annotations

import inspect
import shlex
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from mlx_tinylm.run_folder.presets import PRESETS

NARROW = 70  # columns: below, the names of options stand above their words rather than beside them
# What most people change first, in this order. What is not here follows under a heading of its own.
FIRST = ["data", "preset_name", "out", "steps", "minutes", "resume", "init_from", "batch_size", "context"]
FIRST += ["layers", "heads", "width", "dropout", "learning_rate", "tokenizer", "vocab_size", "seed", "force", "help"]


class Fitted(click.Command):
    """A command whose examples are broken, as a shell allows, where they are wider than the terminal."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        text = inspect.cleandoc(self.help or "")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(fitted(text, formatter.width - formatter.current_indent))


class Page(Fitted):
    """A command that takes options only; `meant` turns what is given without one into the options it belongs to."""

    def __init__(self, *given: Any, meant: Callable[[Sequence[str]], str], **more: Any) -> None:
        super().__init__(*given, **more)
        self.meant = meant

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        stray = super().parse_args(ctx, args)
        if stray:
            given = " ".join(map(shlex.quote, stray))
            raise click.UsageError(f"no option stands before {given}; did you mean {self.meant(stray)}?", ctx)
        return stray


class TrainPage(Page):
    """The help of `train`: what is changed first, all the rest, and the presets, in whose table defaults stand."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = {option.name: option for option in self.get_params(ctx)}
        first = [options.pop(name) for name in FIRST if name in options]
        for title, found in (("Options", first), ("More settings", list(options.values()))):
            rows = [row for option in found if (row := option.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(rows, col_max=30 if formatter.width >= NARROW else 10)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from mlx_tinylm.cli.terminal import preset_table

        with formatter.section("Presets"), formatter.indentation():
            formatter.write_text("\b\n" + preset_table(formatter.width - formatter.current_indent))


def fitted(text: str, width: int) -> str:
    """A help text in which those lines that click would leave as they are (after a backspace) have `width`, too."""
    lines: list[str] = []
    example = False
    for line in text.splitlines():
        example = line == "\b" or (example and line != "")
        lines += _broken(line, width) if example and len(line) > width else [line]
    return "\n".join(lines)


def _broken(line: str, width: int) -> list[str]:
    """A command with its comment above it, continued on the next line where it is too long."""
    command, _, comment = line.partition(" # ")
    parts = textwrap.wrap(command, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    above = textwrap.wrap(comment, width, initial_indent="# ", subsequent_indent="# ") if comment else []
    return [*above, *(f"{part} \\" for part in parts[:-1]), *parts[-1:]]


# What was meant


def text_or_run(stray: Sequence[str]) -> str:
    """For `train`: a preset, a run, a model, or else a text."""
    return " ".join(_train_option(item) for item in stray)


def _train_option(item: str) -> str:
    if item in PRESETS and not Path(item).exists():
        return f"--preset {item}"
    if model := _model(item):
        return f"--{'resume' if (Path(model) / 'train.json').exists() else 'init-from'} {shlex.quote(model)}"
    return f"--data {shlex.quote(item)}"


def prompt_or_weights(stray: Sequence[str]) -> str:
    """For `generate`: a model, or else words."""
    models = [f"--weights {shlex.quote(model)}" for item in stray if (model := _model(item))]
    prompt = " ".join(item for item in stray if not _model(item))
    plain = not any(character in '"\\$`!' for character in prompt)
    words = [f"--prompt {f'{chr(34)}{prompt}{chr(34)}' if plain else shlex.quote(prompt)}"] if prompt else []
    return " ".join([*models, *words])


def text_or_weights(stray: Sequence[str]) -> str:
    """For `eval`: a model, or else a text."""
    items = [(item, _model(item)) for item in stray]
    return " ".join(
        f"--weights {shlex.quote(model)}" if model else f"--data {shlex.quote(item)}" for item, model in items
    )


def _model(item: str) -> str | None:
    """The model folder that is meant, itself or in weights/; None where it looks like something else."""
    for path in (Path(item), Path("weights") / item):
        if (path / "config.json").exists() or (path.parts[:1] == ("weights",) and path.is_dir()):
            return path.as_posix()
    return item if item.startswith("weights/") else None
