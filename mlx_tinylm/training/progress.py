"""How far a run is, and what is due after which step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_tinylm.run_folder.history import spaced
from mlx_tinylm.run_folder.settings import TrainConfig

RECENT = 0.95  # decay of the mean training loss: about the latest twenty steps
SAMPLE_CHARACTERS = 200


@dataclass
class Progress:
    """What a run knows of itself besides its TrainState; kept in each checkpoint."""

    seconds: float = 0.0  # of training; validating, sampling and saving left out
    best_loss: float | None = None
    best_step: int = 0
    last_loss: float | None = None  # of the latest validation
    last_step: int = 0
    train_loss: float | None = None  # mean of the latest steps
    without_best: int = 0  # validations since the best one
    before_last_loss: float | None = None  # of the validation before the latest
    validations: int = 0
    line: dict[str, Any] | None = None  # of metrics.jsonl, for the latest step

    def out_of(self, patience: int | None) -> bool:
        return patience is not None and self.without_best >= patience

    def trained(self, loss: float) -> None:
        """Take in the loss of a step."""
        self.train_loss = loss if self.train_loss is None else RECENT * self.train_loss + (1 - RECENT) * loss

    def validated(self, step: int, loss: float, candidate: bool = True) -> bool:
        """Take in the loss of a validation; whether it is the best so far, if its weights are a candidate for that."""
        self.before_last_loss, self.last_loss, self.last_step = self.last_loss, loss, step
        self.validations += 1
        best = candidate and (self.best_loss is None or loss < self.best_loss)
        self.without_best = 0 if best else self.without_best + 1
        if best:
            self.best_loss, self.best_step = loss, step
        return best


@dataclass(frozen=True)
class Due:
    """What there is to do besides training, after `step`."""

    step: int
    save: bool
    evaluate: bool
    sample: bool
    snapshot: bool


def due_at(config: TrainConfig, step: int) -> Due:
    """What is due after `step`: before the first one a validation and a snapshot, after the last one everything."""

    def is_due(every: int | None) -> bool:
        return every is not None and (step == config.steps or step % every == 0)

    begun = step > 0
    return Due(
        step,
        save=begun and is_due(config.save_every),
        evaluate=is_due(config.eval_every),
        sample=begun and is_due(config.sample_every),
        snapshot=config.history is not None and step in spaced(config.history, config.steps),
    )


def next_due(config: TrainConfig, after: int) -> int:
    """The first step after the step `after` at which something is due."""
    intervals = (config.eval_every, config.sample_every, config.save_every)
    due = [(after // every + 1) * every for every in intervals if every]
    due += [step for step in spaced(config.history, config.steps) if step > after] if config.history else []
    return min([config.steps, *due])
