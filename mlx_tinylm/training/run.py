"""A training run in its folder: started anew or resumed, the folder locked for as long as it goes on.

Each is a straight line: open the text, read its alphabet, choose a tokenizer, encode, make or restore the state, write
the folder. What a run does once it is under way is in live_run.py, so that each of the two fits into one's head.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import filled_folder, lock, remove_leftovers
from mlx_tinylm.integrity import sha256_of
from mlx_tinylm.model_folder.folder import WEIGHTS, ModelFolder, open_folder, read_config, read_tensors, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder import metrics
from mlx_tinylm.run_folder.events import Saved
from mlx_tinylm.run_folder.folder import (
    CHECKPOINTS,
    OWN,
    SMALL_FILES,
    numbered,
    refuse_filled,
    refuse_sources,
)
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.live_run import Run
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.pace import paced
from mlx_tinylm.training.progress import Progress
from mlx_tinylm.training.source_text import encoded, kept_sources, same_text
from mlx_tinylm.training.state import TrainState, check_memory, kept_tensors, new_state

DEFAULT_PARENT = Path("weights")  # of the folders of runs that are given none
# What does not decide the steps already made.
FREE = {"steps", "eval_every", "save_every", "sample_every", "patience"}


@contextlib.contextmanager
def start(
    compute: Compute,
    folder: Path | None,
    config: TrainConfig,
    data: Sequence[str] = (),
    init_from: Path | None = None,
    force: bool = False,
    given: Collection[str] = (),
    minutes: float | None = None,
) -> Iterator[Run]:
    """A new run in `folder`, from fresh weights or those of the model folder `init_from`.

    Without a folder it is the first weights/run-N that is free; none appears before what is in it can be resumed.
    `minutes` replaces the steps of `config` by as many as this machine makes in that time, all else included.

    `compute` comes from `backend.devices.prepare`, which must be called before MLX, and so this file, is imported.
    `given` names the settings that were chosen on purpose, which `init_from` must not silently overrule.
    Raises TinyLMError where the text does not fit, or the folder has something in it that is no run, or not `force`.
    """
    began = time.perf_counter()
    if folder:
        refuse_filled(folder, force)
    data = data or (DEFAULT_CORPUS,)
    source = open_folder(init_from) if init_from else None
    if source:
        config = _shaped_as(source, config, given)
    else:
        config.model_config(vocab_size=1, eos_id=0)  # refuses an impossible shape before a corpus is fetched
    corpus = open_corpus(data)
    if folder:
        refuse_sources(folder, [*corpus.sources, *([init_from] if init_from else [])])
    tokenizer = source.tokenizer if source else Tokenizer.from_alphabet(corpus.alphabet)
    model_config = source.config if source else config.model_config(tokenizer.vocab_size, tokenizer.vocab_size - 1)
    check_memory(config, model_config)
    dataset = encoded(corpus, tokenizer, config, init_from)
    unseen = dataset.unseen(model_config.vocab_size)
    suppressed = tuple(id for id in unseen if not source or id in source.config.suppressed)
    model_config = dataclasses.replace(model_config, suppressed=suppressed)
    weights = source.tensors() if source else None
    if minutes:
        spent = time.perf_counter() - began
        config = paced(config, 60 * minutes - spent, dataset, tokenizer, compute, model_config, weights)
    state = new_state(config, model_config, compute, weights)
    progress = Progress()
    place = folder or DEFAULT_PARENT / f".run.{os.getpid()}.tmp"
    with contextlib.ExitStack() as held:
        exists = place.is_dir()
        if exists:
            held.enter_context(lock(place))
            refuse_filled(place, force)  # again, now that nobody else can fill it
            remove_leftovers(place)
        with filled_folder(place, OWN) as beside:
            if not exists:
                held.enter_context(lock(beside))
            write_folder(beside, model_config, tokenizer)
            write_tensors(beside / WEIGHTS, kept_tensors(state))
            saved = checkpoint.save(beside, state, dataclasses.asdict(progress))
            _record(beside, config, corpus, kept_sources(beside, place, corpus, data), init_from).write(beside)
        folder = folder or numbered(place)
        yield Run(
            folder,
            config,
            corpus,
            dataset,
            tokenizer,
            state,
            progress,
            compute,
            Saved(0, folder / saved.relative_to(beside)),
            fine_tuned=source is not None,
        )


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


def _record(
    folder: Path, config: TrainConfig, corpus: Corpus, data: tuple[str, ...], init_from: Path | None
) -> RunRecord:
    """What the run depends on; the model's small files are in `folder` already."""
    return RunRecord(
        settings=config,
        init_from=str(init_from.resolve()) if init_from else None,
        data=data,
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
    config = _changed(folder, record.settings, changes)
    corpus = same_text(folder, record, data)
    with lock(folder):
        for place in (folder, folder / CHECKPOINTS, *checkpoint.saved(folder)):
            remove_leftovers(place)
        checkpoint.check_writable(folder)
        tokenizer = Tokenizer.load(folder)
        dataset = encoded(corpus, tokenizer, config)
        state = new_state(config, read_config(folder), compute)
        kept, damaged = checkpoint.load_newest(folder, state)
        progress = Progress(**kept)
        _refuse_ended(folder, config, state.step, progress)
        notes = [f"{problem}; going on from step {state.step}" for problem in damaged]
        notes += _jump(record.settings, config, state.step)
        notes += _restore_weights(folder, state, progress)
        sources = kept_sources(folder, folder, corpus, data) if data else record.data  # it may lie somewhere else now
        if (found := dataclasses.replace(record, settings=config, data=sources)) != record:
            found.write(folder)
        running = Run(
            folder,
            config,
            corpus,
            dataset,
            tokenizer,
            state,
            progress,
            compute,
            Saved(state.step, checkpoint.saved(folder)[0]),
            fine_tuned=record.init_from is not None,
            notes=tuple(notes),
        )
        metrics.truncate(folder, state.step - running.unvalidated)  # the line of such a step is written anew
        yield running


def _changed(folder: Path, config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The settings to go on with; raises TinyLMError for those that cannot change."""
    for name in changes.keys() - FREE:
        if changes[name] != getattr(config, name):
            option = "--" + name.replace("_", "-")
            raise TinyLMError(
                f"{folder}: was trained with {option} {getattr(config, name)}, which cannot change on --resume; "
                f"leave {option} out, or start another run with --init-from {folder}"
            )
    return dataclasses.replace(config, **changes)


def _jump(before: TrainConfig, now: TrainConfig, step: int) -> list[str]:
    """A note where another number of steps makes the learning rate jump, if it falls to the end of a run."""
    if step == 0 or before.steps == now.steps:
        return []
    old, new = (float(schedule(config, config.learning_rate)(mx.array(step - 1))) for config in (before, now))
    if abs(new - old) <= 0.01 * now.learning_rate:
        return []
    return [f"the learning rate jumps from {old:.2g} to {new:.2g}: it is now that of a run of {now.steps:,} steps"]


def _refuse_ended(folder: Path, config: TrainConfig, step: int, progress: Progress) -> None:
    """Raise TinyLMError where there is nothing to go on with."""
    if step > config.steps or (step == config.steps and progress.last_step == step):
        raise TinyLMError(f"{folder}: is at step {step:,} already; give --steps above {step:,} to go on")
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
