"""What a person is told of a training run before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_tinylm.cli.terminal import table
from mlx_tinylm.model_folder.layout import count_parameters
from mlx_tinylm.run_folder.history import NUMBER, planned
from mlx_tinylm.text.byte_level import SUBWORDS

if TYPE_CHECKING:
    from mlx_tinylm.text.corpus import Corpus
    from mlx_tinylm.training.live_run import Run


def introduction(run: Run, origin: str) -> str:
    """What is about to be trained, on what, with which settings, and where it goes."""
    config, compute = run.config, run.compute
    parameters = count_parameters(run.state.model.config)
    device = "GPU" if compute.device == "gpu" else f"CPU, {compute.blas.source}"
    windows = f"{config.batch_size * config.grad_accumulation_steps} x {config.context} {run.tokenizer.unit}"
    rows = [
        ("model folder", run.folder),
        ("text", f"{run.corpus.name}: {_size(run.corpus)}"),
        ("held out", run.corpus.held_out_rule),
        *_tokenizer_row(run),
        ("model", f"{config.family}, {config.layers} layers x {config.width}, {parameters:,} parameters"),
        ("training", f"{config.steps:,} steps of {windows}, {config.optimizer}, on {device}"),
        ("settings", origin),
    ]
    if kept := planned(run.folder, config.history, run.state.step, config.steps):
        size = kept * NUMBER * parameters / 1e6
        rows.append(("history", f"{kept} snapshots of the weights, {size:,.1f} MB in the end; --history off for none"))
    if run.state.step:
        rows.append(("going on from", f"step {run.state.step:,}"))
    hint = [compute.blas.hint] if compute.device == "cpu" and compute.blas.hint else []
    return "\n".join([table(rows), *hint])


def _size(corpus: Corpus) -> str:
    """How much text there is, in how many files and documents."""
    found = f"{corpus.characters:,} characters, {len(corpus.alphabet):,} different"
    if corpus.documents == 1:
        return found
    return f"{found}, in {corpus.documents:,} {corpus.unit} of {corpus.files:,} file{'s' if corpus.files > 1 else ''}"


def _tokenizer_row(run: Run) -> list[tuple[str, object]]:
    """What the ids of a model are, where they are not the characters of its text."""
    if run.tokenizer.alphabet is not None:
        return []
    origin = "" if run.config.tokenizer == SUBWORDS else f", from {run.config.tokenizer}"
    return [("tokenizer", f"{run.tokenizer.vocab_size:,} {run.tokenizer.kind}{origin}")]
