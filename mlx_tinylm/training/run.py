"""A training run started anew, its folder locked for as long as it goes on.

It is a straight line: open the text, read its alphabet, choose a tokenizer, encode, make the state, write the folder.
What a run does once it is under way is in live_run.py, how it is resumed in resumption.py.
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
from mlx_tinylm.checks import brief, check, check_number
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import filled_folder, remove_leftovers
from mlx_tinylm.integrity import sha256_of
from mlx_tinylm.locks import lock
from mlx_tinylm.model_folder.extended import extended
from mlx_tinylm.model_folder.folder import WEIGHTS, ModelFolder, open_folder, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.events import Saved
from mlx_tinylm.run_folder.folder import OWN, SMALL_FILES
from mlx_tinylm.run_folder.kept_text import kept_sources
from mlx_tinylm.run_folder.record import RunRecord
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.run_folder.target import numbered, refuse_filled, refuse_sources, undo_interrupted
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS
from mlx_tinylm.text.pair_ids import PairDataset
from mlx_tinylm.text.pairs import PairCorpus
from mlx_tinylm.text.reading import UTF_8, Reading
from mlx_tinylm.text.tokenizer import quoted
from mlx_tinylm.text.trained_tokenizer import trained_tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.live_run import Run
from mlx_tinylm.training.pace import paced
from mlx_tinylm.training.progress import Progress
from mlx_tinylm.training.source_text import encoded
from mlx_tinylm.training.source_tokenizer import with_tokenizer, with_tokenizer_of
from mlx_tinylm.training.state import AGAINST_DIVERGENCE, DivergedError, check_memory, kept_tensors, new_state
from mlx_tinylm.watch import WatchStages, unwatched

DEFAULT_PARENT = Path("weights")  # of the folders of runs that are given none


@contextlib.contextmanager
def start(
    compute: Compute,
    folder: Path | None,
    config: TrainConfig,
    data: Sequence[str] = (),
    *,
    reading: Reading = UTF_8,
    val_data: Sequence[str] = (),
    init_from: Path | None = None,
    force: bool = False,
    given: Collection[str] = (),
    minutes: float | None = None,
    extend_alphabet: bool = False,
    watch: WatchStages = unwatched,
) -> Iterator[Run]:
    """A new run in `folder`, from fresh weights or those of the model folder `init_from`.

    Without a folder it is the first weights/run-N that is free; none appears before what is in it can be resumed.
    `minutes` replaces the steps of `config` by as many as this machine makes in that time, all else included.

    The text is read as `reading` says; `val_data`, if given, is held out in place of a part of it.

    `compute` comes from `backend.devices.prepare`, which must be called before MLX, and so this file, is imported.
    `given` names the settings that were chosen on purpose, which `init_from` must not silently overrule;
    `extend_alphabet` gives the model of `init_from` the characters that it lacks; `watch` is told of the work before
    the first step.
    Raises TinyLMError where the text does not fit, or the folder has something in it that is no run, or not `force`.
    """
    began = time.perf_counter()
    check(minutes is None or "steps" not in given, "minutes decide how many steps there are: leave one of them out")
    for name, value in (("force", force), ("extend_alphabet", extend_alphabet)):
        check(isinstance(value, bool), f"{name} must be True or False, not {brief(value)}")
    check(bool(init_from) or not extend_alphabet, "--extend-alphabet is for --init-from; a new model knows its text")
    notes = undo_interrupted(folder) if folder else []
    if folder:
        refuse_filled(folder, force)
    data = data or (DEFAULT_CORPUS,)
    source = open_folder(init_from) if init_from else None
    if source:
        config = _shaped_as(source, config, given)
    else:
        config.model_config(vocab_size=1, eos_id=0)  # refuses an impossible shape before a corpus is fetched
        config = with_tokenizer(config, given)
    corpus = open_corpus(data, reading, val_data, watch)
    notes += corpus.notes
    if folder:
        texts = [*corpus.sources, *(corpus.validation.sources if corpus.validation else ())]
        refuse_sources(folder, [*texts, *([init_from] if init_from else [])])
    check(
        config.mask_prompt or isinstance(corpus, PairCorpus),
        f"{corpus.name}: holds no pairs of prompt and completion; leave out --no-mask-prompt",
    )
    if source:
        missing = source.tokenizer.unknown_characters(corpus.alphabet) if extend_alphabet else ""
        # Where the end of a text is trained, it does not pad.
        source = extended(source, missing, pads=corpus.documents > 1)
        notes += [f"{len(missing)} characters are new to the model: {quoted(missing)}"] if missing else []
    tokenizer = source.tokenizer if source else trained_tokenizer(corpus, config.tokenizer, config.vocab_size, watch)
    model_config = source.config if source else config.model_config(tokenizer.vocab_size, tokenizer.eos_id)
    check_memory(config, model_config, compute)
    dataset = encoded(corpus, tokenizer, config, init_from, watch=watch)
    if isinstance(dataset, PairDataset):  # a window is as long as the longest pair
        config = dataclasses.replace(config, context=dataset.longest - 1)
    unseen = dataset.unseen(model_config.vocab_size)
    suppressed = tuple(id for id in unseen if not source or id in source.config.suppressed)
    model_config = dataclasses.replace(model_config, suppressed=suppressed)
    weights = source.tensors() if source else None
    if minutes is not None:
        check_number("minutes", minutes, 0, 10**7, above=True)
        try:
            config = paced(config, minutes, began, dataset, tokenizer, compute, model_config, weights)
        except DivergedError as error:
            raise TinyLMError(f"{error}. {AGAINST_DIVERGENCE}, in a new run") from None
    state = new_state(config, model_config, compute, weights)
    progress = Progress()
    place = folder or DEFAULT_PARENT / f".run.{os.getpid()}.tmp"
    with contextlib.ExitStack() as held:
        exists = place.is_dir()
        if exists:
            held.enter_context(lock(place))
            refuse_filled(place, force)  # again, now that nobody else can fill it
            remove_leftovers(place)
        with _under_its_name(place, folder), filled_folder(place, OWN) as beside:
            if not exists:
                held.enter_context(lock(beside))
            write_folder(beside, model_config, tokenizer)
            write_tensors(beside / WEIGHTS, kept_tensors(state))
            saved = checkpoint.save(beside, state, dataclasses.asdict(progress))
            record = _record(beside, compute, config, corpus, init_from)
            dataclasses.replace(
                record,
                data=kept_sources(beside, place, corpus, data),
                val_data=kept_sources(beside, place, corpus.validation, val_data, validation=True),
            ).write(beside)
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
            notes=tuple(notes),
        )


@contextlib.contextmanager
def _under_its_name(place: Path, folder: Path | None) -> Iterator[None]:
    """Errors of a run that has no number yet name the folder that it is to lie in."""
    try:
        yield
    except TinyLMError as error:
        raise TinyLMError(str(error) if folder else str(error).replace(str(place), str(place.parent))) from None


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
    config = with_tokenizer_of(source, config, given)
    return dataclasses.replace(config, context=min(config.context, model.context), **shape)


def _record(folder: Path, compute: Compute, config: TrainConfig, corpus: Corpus, init_from: Path | None) -> RunRecord:
    """What the run depends on, but for where its text lies; the model's small files are in `folder` already."""
    validation, pairs = corpus.validation, corpus.documents if isinstance(corpus, PairCorpus) else 0
    return RunRecord(
        settings=config,
        init_from=str(init_from.resolve()) if init_from else None,
        data=(),
        corpus=TextRecord(corpus.name, corpus.sha256, corpus.characters, pairs),
        files={name: sha256_of(folder / name) for name in SMALL_FILES},
        versions={name: importlib.metadata.version(name) for name in ("mlx-tinylm", "mlx", "numpy")},
        device=str(mx.default_device()),
        tf32=compute.may_use_tf32,
        reading=corpus.reading,
        val_corpus=TextRecord(validation.name, validation.sha256, validation.characters) if validation else None,
    )
