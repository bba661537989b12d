"""A training run in its folder: started anew or resumed, the folder locked for as long as it goes on.

Each is a straight line: open the text, read its alphabet, choose a tokenizer, encode, make or restore the state, write
the folder. What a run does once it is under way is in live_run.py, so that each of the two fits into one's head.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.errors import TinyLMError, escaped
from mlx_tinylm.files import lock, make_folder, remove_leftovers, write_atomically
from mlx_tinylm.integrity import sha256_of
from mlx_tinylm.model_folder.folder import WEIGHTS, ModelFolder, open_folder, read_config, read_tensors, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder import metrics
from mlx_tinylm.run_folder.folder import CHECKPOINTS, SMALL_FILES, TEXT, clear, refuse_filled
from mlx_tinylm.run_folder.record import RunRecord, TextRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, UnknownCharactersError, check_length, encode
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS, NAMED
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.live_run import Progress, Run
from mlx_tinylm.training.state import TrainState, check_memory, kept_tensors, new_state

# What does not decide the steps already made.
FREE = {"steps", "eval_every", "save_every", "sample_every", "patience"}


@contextlib.contextmanager
def start(
    compute: Compute,
    folder: Path,
    config: TrainConfig,
    data: Sequence[str] = (),
    init_from: Path | None = None,
    force: bool = False,
    given: Collection[str] = (),
) -> Iterator[Run]:
    """A new run in `folder`, from fresh weights or those of the model folder `init_from`.

    `compute` comes from `backend.devices.prepare`, which must be called before MLX, and so this file, is imported.
    `given` names the settings that were chosen on purpose, which `init_from` must not silently overrule.
    Raises TinyLMError where the text does not fit, or the folder has something in it and not `force`.
    """
    data = data or (DEFAULT_CORPUS,)
    source = open_folder(init_from) if init_from else None
    if source:
        config = _shaped_as(source, config, given)
    else:
        config.model_config(vocab_size=1, eos_id=0)  # refuses an impossible shape before a corpus is fetched
    corpus = open_corpus(data)
    tokenizer = source.tokenizer if source else Tokenizer.from_alphabet(corpus.alphabet)
    model_config = source.config if source else config.model_config(tokenizer.vocab_size, tokenizer.vocab_size - 1)
    check_memory(config, model_config)
    try:
        dataset = _encoded(corpus, tokenizer, config)
    except UnknownCharactersError as error:
        raise TinyLMError(
            f"{corpus.name}: has {len(error.characters)} characters that the model in {init_from} does not know: "
            f"{escaped(error.characters, keep='')[:200]}. Remove them from the text, "
            "or train from the start without --init-from"
        ) from None
    state = new_state(config, model_config, compute, source.tensors() if source else None)
    progress = Progress()
    make_folder(folder)
    refuse_filled(folder, force)  # before the lock, whose file would stay behind
    with lock(folder):
        clear(folder, force)
        write_folder(folder, model_config, tokenizer)
        write_tensors(folder / WEIGHTS, kept_tensors(state))
        checkpoint.save(folder, state, dataclasses.asdict(progress))
        _record(folder, config, corpus, data, init_from).write(folder)  # last: from here on the run can be resumed
        yield Run(folder, config, corpus, dataset, tokenizer, state, progress, compute)


def _shaped_as(source: ModelFolder, config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the shape of the model to start from; a shorter context is allowed."""
    if source.config.quantization:
        raise TinyLMError(f"{source.path}: is quantised and cannot be trained; use the folder it was made from")
    model = source.config
    shape: dict[str, Any] = {"family": model.family, "layers": model.layers, "heads": model.heads, "width": model.width}
    for name in shape.keys() & given:
        if getattr(config, name) != shape[name]:
            raise TinyLMError(
                f"--{name} {getattr(config, name)}: the model in {source.path} has {shape[name]}; leave it out"
            )
    if "context" in given and config.context > model.context:
        raise TinyLMError(f"--context {config.context}: the model in {source.path} sees {model.context} at most")
    return dataclasses.replace(config, context=min(config.context, model.context), **shape)


def _encoded(corpus: Corpus, tokenizer: Tokenizer, config: TrainConfig) -> Dataset:
    """The text as ids; raises TinyLMError where the tokenizer lacks characters of it, or it is too short."""
    dataset = Dataset(encode(corpus, tokenizer))
    check_length(corpus.name, dataset, config.context)
    return dataset


def _record(
    folder: Path, config: TrainConfig, corpus: Corpus, data: Sequence[str], init_from: Path | None
) -> RunRecord:
    """What the run depends on. The model's small files are there already; text from a pipe is kept beside them."""
    if all(item in NAMED or (item != "-" and (os.path.isfile(item) or os.path.isdir(item))) for item in data):
        data = [item if item in NAMED else str(Path(item).resolve()) for item in data]
    else:
        write_atomically(folder / TEXT, corpus.text())
        data = [TEXT]
    return RunRecord(
        settings=config,
        init_from=str(init_from.resolve()) if init_from else None,
        data=tuple(data),
        corpus=TextRecord(corpus.name, corpus.sha256, corpus.characters),
        files={name: sha256_of(folder / name) for name in SMALL_FILES},
        versions={name: importlib.metadata.version(name) for name in ("mlx-tinylm", "mlx", "numpy")},
        device=str(mx.default_device()),
    )


@contextlib.contextmanager
def resume(compute: Compute, folder: Path, changes: dict[str, Any], data: Sequence[str] | None = None) -> Iterator[Run]:
    """Go on with the run in `folder` from its newest whole checkpoint.

    `changes` may hold the number of steps, how often to look and to save, and the patience: what can change without
    starting again. A schedule that falls to the end of the run then falls to its new end.
    Raises TinyLMError for other changes and for another text.
    """
    record = RunRecord.read(folder)
    config, notes = _changed(folder, record.settings, changes)
    corpus = _same_text(folder, record, data)
    with lock(folder):
        remove_leftovers(folder)
        remove_leftovers(folder / CHECKPOINTS)
        tokenizer = Tokenizer.load(folder)
        dataset = _encoded(corpus, tokenizer, config)
        state = new_state(config, read_config(folder), compute)
        kept, damaged = checkpoint.load_newest(folder, state)
        progress = Progress(**kept)
        _refuse_ended(folder, config, state.step, progress)
        notes += [f"{problem}; going on from step {state.step}" for problem in damaged]
        notes += _restore_weights(folder, state, progress)
        metrics.truncate(folder, state.step)
        if config != record.settings:
            dataclasses.replace(record, settings=config).write(folder)
        yield Run(folder, config, corpus, dataset, tokenizer, state, progress, compute, tuple(notes))


def _changed(folder: Path, config: TrainConfig, changes: dict[str, Any]) -> tuple[TrainConfig, list[str]]:
    """The settings to go on with, and what to know of them; raises TinyLMError for those that cannot change."""
    for name in changes.keys() - FREE:
        if changes[name] != getattr(config, name):
            option = "--" + name.replace("_", "-")
            raise TinyLMError(
                f"{folder}: was trained with {option} {getattr(config, name)}, which cannot change on --resume; "
                f"leave {option} out, or start another run with --init-from {folder}"
            )
    changed = dataclasses.replace(config, **changes)
    if changed.steps == config.steps or config.schedule == "constant":
        return changed, []
    return changed, [f"the learning rate is now that of a run of {changed.steps:,} steps; it jumps where they part"]


def _same_text(folder: Path, record: RunRecord, data: Sequence[str] | None) -> Corpus:
    """The text that the run began with; raises TinyLMError where it has changed."""
    corpus = open_corpus(data or record.sources(folder))
    if corpus.sha256 != record.corpus.sha256:
        raise TinyLMError(
            f"{folder}: was trained on another text than {corpus.name} is now; give the same text with --data, "
            f"or start another run with --init-from {folder}"
        )
    return corpus


def _refuse_ended(folder: Path, config: TrainConfig, step: int, progress: Progress) -> None:
    """Raise TinyLMError where there is nothing to go on with."""
    if step >= config.steps:
        raise TinyLMError(f"{folder}: already has all {config.steps} steps; give a larger --steps to go on")
    if progress.out_of(config.patience):
        raise TinyLMError(
            f"{folder}: stopped because {progress.without_best} validations brought no new best; "
            "give a larger --patience, or --patience off, to go on"
        )


def _restore_weights(folder: Path, state: TrainState, progress: Progress) -> list[str]:
    """See that the best weights can be read; where they cannot, put those of the checkpoint there and say so."""
    try:
        read_tensors(folder, state.model.config)
        return []
    except TinyLMError as error:
        write_tensors(folder / WEIGHTS, kept_tensors(state))
        progress.best_loss = None
        return [f"{error}; those of step {state.step} are there now"]
