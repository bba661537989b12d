"""What happens in a run, as plain records: a view matches on their types without MLX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stepped:
    """Step `step` is done; `loss` is that of its batch before its update, in nats."""

    step: int
    loss: float
    grad_norm: float


@dataclass(frozen=True)
class Evaluated:
    """The whole validation split was read after `step`, 0 being before the first; `loss` is its mean in nats.

    `best` says whether that is the lowest so far; random weights, at step 0, are never called the best. Bits per byte
    of text are a measure that different tokenizers share.
    """

    step: int
    loss: float
    best: bool
    bits_per_byte: float
    exact: int | None = None  # how many of the held-out pairs it answers exactly; None where they are no pairs


@dataclass(frozen=True)
class Baselines:
    """What the validation losses may be compared with, told after `step`: losses on the same text, in nats."""

    step: int
    guessing: float  # every id as likely as any other
    ngrams: tuple[float, ...]  # 1-gram, 2-gram, ... models
    counted: int  # ids of the training text that the n-gram models have seen


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


Event = Stepped | Evaluated | Baselines | Sampled | Saved
