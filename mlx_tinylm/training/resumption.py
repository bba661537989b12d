"""A training run resumed from its newest whole checkpoint.

What a run does once it is under way is in live_run.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tinylm.backend.devices import Compute
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import remove_leftovers
from mlx_tinylm.locks import lock
from mlx_tinylm.model_folder.folder import WEIGHTS, read_config, read_tensors
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.run_folder import history, metrics
from mlx_tinylm.run_folder.events import Saved
from mlx_tinylm.run_folder.folder import CHECKPOINTS
from mlx_tinylm.run_folder.kept_text import kept_sources
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.run_folder.target import undo_interrupted
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.live_run import Run
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.progress import Progress
from mlx_tinylm.training.source_text import encoded, same_text
from mlx_tinylm.training.source_tokenizer import place_of
from mlx_tinylm.training.state import TrainState, kept_tensors, new_state
from mlx_tinylm.watch import WatchStages, unwatched

# What does not decide the steps already made.
FREE = {"steps", "eval_every", "save_every", "sample_every", "history", "patience"}


@contextlib.contextmanager
def resume(
    compute: Compute,
    folder: Path,
    changes: dict[str, Any],
    data: Sequence[str] | None = None,
    *,
    val_data: Sequence[str] | None = None,
    watch: WatchStages = unwatched,
) -> Iterator[Run]:
    """Go on with the run in `folder` from its newest whole checkpoint.

    `changes` may hold the number of steps, how often to look and to save, and the patience: what can change without
    starting again. A schedule that falls to the end of the run then falls to its new end.
    Raises TinyLMError for other changes and for another text.
    """
    restored = undo_interrupted(folder)
    record = RunRecord.read(folder)
    config = _changed(folder, record.settings, changes)
    corpus = same_text(folder, record, data, val_data, watch)
    with lock(folder):
        for place in (folder, folder / CHECKPOINTS, *checkpoint.saved(folder)):
            remove_leftovers(place)
        tokenizer = Tokenizer.load(folder)
        dataset = encoded(corpus, tokenizer, config, watch=watch)
        state = new_state(config, read_config(folder), compute)
        kept, damaged = checkpoint.load_newest(folder, state)
        checkpoint.check_writable(folder)
        progress = Progress(**kept)
        _refuse_ended(folder, config, state.step, progress)
        notes = restored + [f"{problem}; going on from step {state.step}" for problem in damaged]
        notes += _jump(record.settings, config, state.step)
        notes += _restore_weights(folder, state, progress)
        sources, val_sources = record.data, record.val_data
        if data:  # it may lie somewhere else now
            sources = kept_sources(folder, folder, corpus, data)
        if val_data:
            val_sources = kept_sources(folder, folder, corpus.validation, val_data, validation=True)
        found = dataclasses.replace(record, settings=config, data=sources, val_data=val_sources)
        if found != record:
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
        history.truncate(folder, state.step)
        yield running


def _changed(folder: Path, config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The settings to go on with; raises TinyLMError for those that cannot change."""
    if "tokenizer" in changes:  # a folder is recorded by its absolute path
        changes = changes | {"tokenizer": place_of(changes["tokenizer"])}
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
