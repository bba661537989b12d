"""The command line: options in, a library call, text out. Nothing but this and its options knows click."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mlx_tinylm import __version__
from mlx_tinylm.cli import terminal as display
from mlx_tinylm.cli.options import Number, WholeNumber, setting_options
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.presets import DEFAULT_PRESET, PRESETS, preset
from mlx_tinylm.sampling import SampleConfig


class Commands(click.Group):
    """Maps what goes wrong to one line and an exit code, once for all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = lambda message, *_, **__: display.note(f"note: {message}")
        try:
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
        except KeyboardInterrupt:
            click.echo(err=True)
            raise SystemExit(130) from None


weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    show_default="the Shakespeare model that ships",
    help="A model folder.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["auto", "mlx", "numpy"]),
    default="auto",
    show_default=True,
    help="What computes: auto takes MLX where it is installed, and NumPy elsewhere.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """What is wrong with the options themselves is a usage error (exit code 2)."""
    try:
        yield
    except TinyLMError as error:
        raise click.UsageError(str(error)) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mlx-tinylm")
@click.option("--debug", is_flag=True, help="Show the traceback when something goes wrong.")
def main(debug: bool) -> None:
    """Train a tiny language model from scratch with Apple MLX, and use it anywhere.

    \b
    mlx-tinylm train                        # Tiny Shakespeare, live progress and samples
    mlx-tinylm generate --prompt "ROMEO:"   # streams, character by character
    mlx-tinylm eval                         # how good is it?
    mlx-tinylm info                         # what is it made of?
    mlx-tinylm export weights/run-1 --out x # for mlx-lm, transformers, LM Studio
    mlx-tinylm bench                        # how fast is this machine?
    """
    display.print_anything()


@main.command(epilog=display.preset_table())
@click.option(
    "--data",
    multiple=True,
    metavar="TEXT",
    show_default="tinyshakespeare",
    help="The name of a corpus, a text file, a folder, a .gz, or - for standard input. May be repeated.",
)
@click.option(
    "--preset",
    "preset_name",
    type=click.Choice(list(PRESETS)),
    show_default=DEFAULT_PRESET,
    help="Settings to start from (see below).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    show_default="a fresh weights/run-N",
    help="The model folder to make.",
)
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    show_default="a new run",
    help="Go on with the run in this folder.",
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    show_default="random weights",
    help="Start from the weights in this folder.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where MLX computes.",
)
@click.option("--force", is_flag=True, help="Replace what is in --out.")
@setting_options
def train(
    data: tuple[str, ...],
    preset_name: str | None,
    out: Path | None,
    resume: Path | None,
    init_from: Path | None,
    device: str,
    force: bool,
    **settings: Any,
) -> None:
    """Train a model on text, character by character.

    Ctrl-C saves and prints the command that goes on.

    \b
    mlx-tinylm train --preset nano                     # a first look, in about a minute
    mlx-tinylm train --data book.txt --out weights/book
    mlx-tinylm train --resume weights/book --steps 2000
    mlx-tinylm train --init-from weights/book --data letters.txt
    """
    changes = {name: None if value == "off" else value for name, value in settings.items() if value is not None}
    if resume and (out or init_from or force or preset_name):
        raise click.UsageError("--resume goes on in its own folder: leave out --out, --init-from, --force, --preset.")
    with usage():
        config = preset(preset_name or DEFAULT_PRESET, **changes)
    from mlx_tinylm.backend.choose import require_mlx

    require_mlx(device)
    from mlx_tinylm.cli.training_view import show_training
    from mlx_tinylm.run_folder import record as run_folder
    from mlx_tinylm.training import run

    if resume:
        opened = run.resume(resume, changes, data)
    else:
        opened = run.start(out or run_folder.fresh_folder(), config, data, init_from, force, given=changes.keys())
    with opened as running:
        show_training(running)


@main.command()
@weights_option
@click.option("--prompt", show_default="a newline", help="The text to go on from; - reads stdin.")
@click.option("--max-tokens", type=WholeNumber(1), default=500, show_default=True, help="Characters to write.")
@click.option(
    "--temperature",
    "--temp",
    type=Number(0),
    default=0.8,
    show_default=True,
    help="How bold: 0 always takes the likeliest character.",
)
@click.option("--top-k", type=WholeNumber(1), help="Draw from the k likeliest only.", show_default="all")
@click.option(
    "--top-p",
    type=Number(0, 1, min_open=True),
    help="Draw from the likeliest with p together.",
    show_default="all",
)
@click.option(
    "--min-p",
    type=Number(0, 1),
    help="Leave out what is p times less likely than the likeliest.",
    show_default="none",
)
@click.option(
    "--repetition-penalty", type=Number(0, min_open=True), help="Above 1: repeat less.", show_default="no penalty"
)
@click.option("--seed", type=WholeNumber(0), help="The same seed writes the same text.", show_default="random")
@click.option("--num-samples", type=WholeNumber(1), default=1, show_default=True, help="Texts to write.")
@click.option("--stop", help="End before this text.", show_default="only at --max-tokens")
@backend_option
def generate(weights: Path | None, prompt: str | None, num_samples: int, backend: str, **options: Any) -> None:
    """Write text that goes on from a prompt, as it is made.

    \b
    mlx-tinylm generate --prompt "ROMEO:" --max-tokens 2000
    mlx-tinylm generate --weights weights/run-1 --temperature 0.5 --seed 1
    printf "To be or not to b" | mlx-tinylm generate --prompt - --max-tokens 1
    """
    from mlx_tinylm.backend.choose import load
    from mlx_tinylm.generation import stream_generate

    with usage():
        config = SampleConfig(**options)
    model, tokenizer = load(weights or shipped(), backend)
    text = display.standard_input() if prompt == "-" else tokenizer.opening if prompt is None else prompt
    for number in range(num_samples):
        seeded = config if config.seed is None else dataclasses.replace(config, seed=config.seed + number)
        pieces = stream_generate(model, tokenizer, text, seeded)
        display.stream_text(text, pieces, number, num_samples, model.backend)


@main.command("eval")
@weights_option
@click.option(
    "--data",
    multiple=True,
    metavar="TEXT",
    show_default="what it was trained on, or tinyshakespeare",
    help="As for train. A named corpus counts by its held-out tenth, anything else as a whole.",
)
@click.option("--baselines", is_flag=True, help="Add the losses of 1-gram to 5-gram models of the training text.")
@click.option("--memorised", is_flag=True, help="Add how much of what the model writes stands in the training text.")
@backend_option
@json_option
def evaluate(weights: Path | None, data: tuple[str, ...], backend: str, as_json: bool, **more: bool) -> None:
    """Measure how well a model predicts text: loss, perplexity, bits per character.

    \b
    mlx-tinylm eval
    mlx-tinylm eval --baselines --memorised
    mlx-tinylm eval --weights weights/run-1 --data letters.txt --json
    """
    from mlx_tinylm.evaluation import evaluate_text

    result = evaluate_text(weights or shipped(), data, backend, **more)
    click.echo(json.dumps(result) if as_json else display.table(result.items()))


@main.command()
@click.argument("name", required=False)
def data(name: str | None) -> None:
    """List the corpora that have a name, or fetch one and say where it lies.

    \b
    mlx-tinylm data
    mlx-tinylm data tinyshakespeare
    """
    from mlx_tinylm.text import corpus

    if name is None:
        click.echo(display.table((key, known.about) for key, known in corpus.NAMED.items()))
        return
    found = corpus.open_named(name)
    rows = {
        "file": found.sources[0],
        "bytes": f"{found.bytes:,}",
        "sha256": found.sha256,
        "characters": f"{found.characters:,}",
        "alphabet": f"{len(found.alphabet)}: {found.alphabet!r}",
    }
    click.echo(display.table(rows.items()))


@main.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="How numbers are stored.",
)
@click.option(
    "--quantize",
    type=click.Choice(["8", "4"]),
    show_default="as --dtype",
    help="Bits a number of a matrix, in MLX's format.",
)
@click.option("--gguf", is_flag=True, help="Write the model as one file for llama.cpp, too.")
@click.option("--force", is_flag=True, help="Replace an earlier export in --out.")
def export(weights: Path, out: Path, dtype: str, quantize: str | None, gguf: bool, force: bool) -> None:
    """Write a clean copy of a model that mlx-lm, transformers, LM Studio and NumPy open.

    The copy has a model card and no training state. It is read back and its output compared with the model's own.

    \b
    mlx-tinylm export weights/run-1 --out shakespeare
    mlx-tinylm export weights/run-1 --out shakespeare-4bit --quantize 4
    """
    from mlx_tinylm.export.folder import export

    written = export(weights, out, dtype, int(quantize) if quantize else None, force, gguf)
    click.echo(display.exported(written))


@main.command()
@click.argument("weights", type=click.Path(path_type=Path), required=False)
@json_option
def info(weights: Path | None, as_json: bool) -> None:
    """Show versions, device and matrix library, and what a model folder holds.

    \b
    mlx-tinylm info
    mlx-tinylm info weights/run-1
    """
    from mlx_tinylm.info import model_facts, system_facts

    facts = system_facts() | (model_facts(weights) if weights else {})
    click.echo(json.dumps(facts) if as_json else display.facts(facts))


@main.command()
@json_option
def bench(as_json: bool) -> None:
    """Measure how fast this machine trains and writes, in about a minute.

    Nothing else should be at work meanwhile. The table is made to be pasted into an issue.

    \b
    mlx-tinylm bench
    mlx-tinylm bench --json
    """
    from mlx_tinylm.benchmark import measurements

    if as_json:
        click.echo(json.dumps(dict(measurements())))
    else:
        display.rows_as_they_come(measurements())


def shipped() -> Path:
    from mlx_tinylm.model_folder.folder import shipped_weights

    return shipped_weights()
