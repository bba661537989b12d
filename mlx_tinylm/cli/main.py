"""The command `mlx-tinylm`: its commands, and errors as one line."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from typing import Any

import click

from mlx_tinylm.cli import evaluate, export, generate, inspect, look, play, runs, terminal, train
from mlx_tinylm.cli.pages import Fitted
from mlx_tinylm.errors import TinyLMError


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Ctrl-C where nothing is to be saved leaves a newline, and the exit code that shells know."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(err=True)
        raise SystemExit(130) from None


class Commands(Fitted, click.Group):
    """Maps what goes wrong to one line and an exit code, once for all commands."""

    def make_context(self, *given: Any, **more: Any) -> click.Context:
        with ended_by_ctrl_c():
            return super().make_context(*given, **more)

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = lambda message, *_, **__: terminal.note(f"note: {message}")
        try:
            with ended_by_ctrl_c():
                return super().invoke(ctx)
        except TinyLMError as error:
            if ctx.params.get("debug"):
                raise
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if ctx.params.get("debug") or error.errno == errno.EPIPE:  # click ends quietly where a pipe is closed
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None
        except MemoryError:
            raise click.ClickException("not enough memory; a smaller model, batch or text needs less") from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="mlx-tinylm", prog_name="mlx-tinylm")
@click.option("--debug", is_flag=True, help="Show the traceback when something goes wrong.")
def main(debug: bool) -> None:
    """Train a tiny language model from scratch with Apple MLX, and use it anywhere.

    \b
    mlx-tinylm train                        # Tiny Shakespeare, live progress and samples
    mlx-tinylm generate --prompt "ROMEO:"   # streams, character by character
    mlx-tinylm runs                         # what have I trained?
    mlx-tinylm eval                         # how good is it?
    mlx-tinylm info                         # what is it made of?
    mlx-tinylm inspect --prompt "ROMEO:"    # how does it come to its next character?
    mlx-tinylm play                         # the same, and more, on a page in the browser
    mlx-tinylm export weights/run-1 --out x # for mlx-lm, transformers, LM Studio
    mlx-tinylm bench                        # how fast is this machine?
    """
    terminal.print_anything()


@click.command("help", cls=Fitted)
@click.argument("name", required=False, metavar="[COMMAND]")
@click.pass_context
def help_page(context: click.Context, name: str | None) -> None:
    """Show the help of the program, or of one of its commands.

    \b
    mlx-tinylm help
    mlx-tinylm help train
    """
    arguments = [name, "--help"] if name else ["--help"]
    program = context.find_root()
    main.main(arguments, prog_name=program.info_name)


COMMANDS = [train.train, generate.generate, runs.runs, evaluate.evaluate, inspect.inspect, play.play, export.export]
for command in [*COMMANDS, look.info, look.data, look.bench, help_page]:
    main.add_command(command)
