"""A training run in its folder: started or resumed, locked, looked at and kept while it goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import itertools
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_tinylm.config import SampleConfig
from mlx_tinylm.corpus import DEFAULT_CORPUS, Corpus, open_corpus
from mlx_tinylm.dataset import Dataset, load_dataset
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation
from mlx_tinylm.files import lock, make_folder, read_json, remove, to_json, write_atomically
from mlx_tinylm.generation import generate
from mlx_tinylm.models.inference import MLXModel
from mlx_tinylm.tokenizer import Tokenizer
from mlx_tinylm.training import checkpoint
from mlx_tinylm.training.loop import Stepped, make_step, run_steps, validate
from mlx_tinylm.training.optimizer import schedule
from mlx_tinylm.training.state import TrainState, kept_tensors, kept_weights, new_state
from mlx_tinylm.training_config import TrainConfig
from mlx_tinylm.weights import WEIGHTS, ModelFolder, open_folder, read_config, write_folder, write_tensors

METRICS, SETTINGS, CHECKPOINTS = "metrics.jsonl", "train.json", "checkpoints"
SAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Evaluated:
    """The whole validation split was read after `step`; `best` if no loss before was as low."""

    step: int
    evaluation: Evaluation
    best: bool


@dataclass(frozen=True)
class Sampled:
    """What the model writes after `step`."""

    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint of `step` lies in `path`."""

    step: int
    path: Path


Event = Stepped | Evaluated | Sampled | Saved


@dataclass
class Progress:
    """How far a run is, besides its TrainState; kept in each checkpoint."""

    seconds: float = 0.0  # of training; validating, sampling and saving left out
    best_loss: float | None = None
    best_step: int = 0
    last_loss: float | None = None  # of the latest validation
    train_loss: float | None = None  # of the latest step
    without_best: int = 0  # validations since the best one


@dataclass
class Run:
    """A run that holds the lock on its folder. Iterate over `events` to train; `stop` ends it after a step."""

    folder: Path
    config: TrainConfig
    corpus: Corpus
    dataset: Dataset
    tokenizer: Tokenizer
    state: TrainState
    progress: Progress
    notes: tuple[str, ...] = ()
    stopping: bool = False

    def stop(self) -> None:
        """Finish the step under way, save, and end."""
        self.stopping = True

    @property
    def out_of_patience(self) -> bool:
        return self.config.patience is not None and self.progress.without_best >= self.config.patience

    def events(self) -> Iterator[Event]:
        """Train to the end and say what happens. Raises TinyLMError where a loss is not finite."""
        config, state = self.config, self.state
        step = make_step(state, config, self.dataset.train)
        while state.step < config.steps and not self.stopping and not self.out_of_patience:
            until = next_due(config, state.step)
            last: dict[str, Any] | None = None
            started = time.perf_counter()
            before = self.progress.seconds
            for stepped in run_steps(step, state, config, len(self.dataset.train), until, lambda: self.stopping):
                self.progress.seconds = before + time.perf_counter() - started
                self.progress.train_loss = stepped.loss
                if last:
                    self._record(last)
                last = self._metrics(stepped)
                yield stepped
            ended = state.step == config.steps
            if ended or is_due(state.step, config.eval_every):
                evaluated = self._evaluate()
                if last:
                    last["val_loss"] = evaluated.evaluation.loss
                yield evaluated
            if last:
                self._record(last)
            if config.sample_every and (ended or is_due(state.step, config.sample_every)):
                yield Sampled(state.step, self._sample())
            if ended or self.stopping or self.out_of_patience or is_due(state.step, config.save_every):
                progress = dataclasses.asdict(self.progress)
                yield Saved(state.step, checkpoint.save(self.folder, state, progress))

    def _evaluate(self) -> Evaluated:
        evaluation = validate(self.state, self.config, self.dataset.validation)
        progress = self.progress
        progress.last_loss = evaluation.loss
        best = progress.best_loss is None or evaluation.loss < progress.best_loss
        progress.without_best = 0 if best else progress.without_best + 1
        if best:
            progress.best_loss, progress.best_step = evaluation.loss, self.state.step
            write_tensors(self.folder / WEIGHTS, kept_tensors(self.state))
        return Evaluated(self.state.step, evaluation, best)

    def _sample(self) -> str:
        alphabet = self.tokenizer.alphabet or "\n"
        prompt = "\n" if "\n" in alphabet else alphabet[0]
        config = SampleConfig(max_tokens=SAMPLE_CHARACTERS, seed=self.config.seed)
        with kept_weights(self.state) as model:
            return generate(MLXModel(model), self.tokenizer, prompt, config)

    def _metrics(self, stepped: Stepped) -> dict[str, Any]:
        rate = schedule(self.config, self.config.learning_rate)(mx.array(stepped.step - 1))
        tokens = self.config.batch_size * self.config.grad_accumulation_steps * self.config.context
        return {
            "step": stepped.step,
            "loss": stepped.loss,
            "grad_norm": stepped.grad_norm,
            "lr": float(rate),
            "tokens": stepped.step * tokens,
            "seconds": round(self.progress.seconds, 4),
        }

    def _record(self, metrics: dict[str, Any]) -> None:
        try:
            with open(self.folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")
        except OSError as error:
            raise TinyLMError(f"{self.folder / METRICS}: cannot be written ({error.strerror})") from None


def is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def next_due(config: TrainConfig, step: int) -> int:
    """The first step after `step` at which there is something to do but training."""
    intervals = [n for n in (config.eval_every, config.save_every, config.sample_every) if n]
    return min([config.steps, *((step // n + 1) * n for n in intervals)])


@contextlib.contextmanager
def start(
    folder: Path,
    config: TrainConfig,
    data: Sequence[str] = (),
    init_from: Path | None = None,
    force: bool = False,
    given: Collection[str] = (),
) -> Iterator[Run]:
    """A new run in `folder`, from fresh weights or those of the model folder `init_from`.

    `given` names the settings that were chosen on purpose, which `init_from` must not silently overrule.
    Raises TinyLMError where the text does not fit, or the folder has something in it and not `force`.
    """
    data = data or (DEFAULT_CORPUS,)
    source = open_folder(init_from) if init_from else None
    if source:
        config = _shaped_as(source, config, given)
    corpus = open_corpus(data)
    tokenizer = source.tokenizer if source else Tokenizer.from_alphabet(corpus.alphabet)
    if source and (unknown := tokenizer.unknown_characters(corpus.alphabet)):
        shown = unknown.encode("unicode_escape").decode() if not unknown.isprintable() else unknown
        raise TinyLMError(
            f"{corpus.name}: has {len(unknown)} characters that the model in {init_from} does not know: "
            f"{shown[:200]}. Remove them from the text, or train from the start without --init-from"
        )
    if source and source.config.quantization:
        raise TinyLMError(f"{init_from}: is quantised and cannot be trained; use the folder it was made from")
    model_config = source.config if source else config.model_config(tokenizer.vocab_size, tokenizer.vocab_size - 1)
    dataset = load_dataset(corpus, tokenizer, config.context)
    state = new_state(config, model_config, source.tensors() if source else None)
    make_folder(folder)
    with lock(folder):
        _clear(folder, force)
        write_folder(folder, model_config, tokenizer)
        write_tensors(folder / WEIGHTS, kept_tensors(state))
        settings = {
            "settings": config.to_json(),
            "init_from": str(init_from.resolve()) if init_from else None,
            "data": [str(Path(item).resolve()) if Path(item).exists() else item for item in data],
            "corpus": {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.characters},
            "versions": {name: importlib.metadata.version(name) for name in ("mlx-tinylm", "mlx", "numpy")},
            "device": str(mx.default_device()),
        }
        write_atomically(folder / SETTINGS, to_json(settings))
        yield Run(folder, config, corpus, dataset, tokenizer, state, Progress())


@contextlib.contextmanager
def resume(folder: Path, changes: dict[str, Any], data: Sequence[str] | None = None) -> Iterator[Run]:
    """Go on with the run in `folder` from its newest whole checkpoint.

    `changes` may hold what does not alter the steps already made: more or fewer steps, how often to look and
    to save, and the patience. Raises TinyLMError for other changes and for another text.
    """
    config, raw = read_settings(folder)
    free = {"steps", "eval_every", "save_every", "sample_every", "patience"}
    for name in changes.keys() - free:
        if changes[name] != getattr(config, name):
            option = "--" + name.replace("_", "-")
            raise TinyLMError(
                f"{folder}: was trained with {option} {getattr(config, name)}, which cannot change on --resume; "
                f"leave {option} out, or start another run with --init-from {folder}"
            )
    config = dataclasses.replace(config, **changes)
    corpus = open_corpus(list(data) if data else raw["data"])
    if corpus.sha256 != raw["corpus"]["sha256"]:
        raise TinyLMError(
            f"{folder}: was trained on another text than {corpus.name} is now; give the same text with --data, "
            f"or start another run with --init-from {folder}"
        )
    with lock(folder):
        tokenizer = Tokenizer.load(folder)
        dataset = load_dataset(corpus, tokenizer, config.context)
        state = new_state(config, read_config(folder))
        progress, wrong = checkpoint.load_newest(folder, state)
        notes = tuple(f"{problem}; going on from step {state.step}" for problem in wrong)
        if state.step >= config.steps:
            raise TinyLMError(f"{folder}: already has all {config.steps} steps; give a larger --steps to go on")
        _truncate_metrics(folder / METRICS, state.step)
        yield Run(folder, config, corpus, dataset, tokenizer, state, Progress(**progress), notes)


def fresh_folder() -> Path:
    """The first weights/run-N that does not exist yet."""
    return next(path for n in itertools.count(1) if not (path := Path("weights") / f"run-{n}").exists())


def _shaped_as(source: ModelFolder, config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """The settings with the shape of the model to start from; a shorter context is allowed."""
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


def read_settings(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings in `train.json`, and all of it; raises TinyLMError where there is no run in the folder."""
    path = folder / SETTINGS
    if not path.exists():
        raise TinyLMError(f"{folder}: no run to resume here ({SETTINGS} is missing)")
    raw = read_json(path)
    try:
        _ = raw["data"], raw["corpus"]["sha256"]
        return TrainConfig.from_json(raw["settings"]), raw
    except TinyLMError as error:
        raise TinyLMError(f"{path}: {error}") from None
    except (KeyError, TypeError) as error:
        raise TinyLMError(f"{path}: not the settings of a run ({error!r})") from None


def _clear(folder: Path, force: bool) -> None:
    """Leave nothing of an earlier run in the way; other files are never touched."""
    there = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
    if there and not force:
        raise TinyLMError(
            f"{folder}: has something in it already ({', '.join(there[:3])}); choose another --out, "
            "go on with --resume, or add --force to replace it"
        )
    remove(folder / CHECKPOINTS)
    for name in (METRICS, SETTINGS):
        (folder / name).unlink(missing_ok=True)


def _truncate_metrics(path: Path, step: int) -> None:
    """Drop the lines after `step`, which will be made again, and a last line that was cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            metrics = json.loads(line)
        except ValueError:
            break
        if metrics["step"] > step:
            break
        kept.append(line + "\n")
    write_atomically(path, "".join(kept))
