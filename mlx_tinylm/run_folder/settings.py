"""The settings of a training run, their limits and help texts in one place, and the presets.

The command line makes its options from these fields, so that a setting is described exactly once.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from mlx_tinylm.checks import MAX_SIZE, brief, check, check_count, check_number
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import MAX_LAYERS, GPT2Config, ModelConfig, Qwen3Config


def _setting(default: Any, help: str, **limits: Any) -> Any:
    """A field whose metadata carries the help text and `low`, `high`, `above` or `choices`."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes. `None` means off."""

    # Model
    family: str = _setting("gpt2", "Architecture of the model.", choices=("gpt2", "qwen3"))
    layers: int = _setting(3, "Transformer blocks.", low=1, high=MAX_LAYERS)
    heads: int = _setting(4, "Attention heads in a block.", low=1)
    width: int = _setting(256, "Size of the vector that stands for a character.", low=1)
    context: int = _setting(256, "Characters the model sees at once.", low=2)
    dropout: float = _setting(0.0, "Share of activations switched off in training.", low=0.0, high=0.95)
    # Optimizer
    optimizer: str = _setting("adamw", "Muon trains the matrices, AdamW the rest.", choices=("adamw", "muon"))
    learning_rate: float = _setting(3e-4, "Peak learning rate of AdamW.", low=0.0, above=True)
    beta1: float = _setting(0.9, "AdamW's decay of the mean gradient.", low=0.0, high=0.9999)
    beta2: float = _setting(0.95, "AdamW's decay of the mean squared gradient.", low=0.0, high=0.99999)
    weight_decay: float = _setting(0.1, "AdamW's decoupled decay of the matrices.", low=0.0)
    muon_learning_rate: float = _setting(0.02, "Peak learning rate of Muon.", low=0.0, above=True)
    muon_weight_decay: float = _setting(0.1, "Muon's decoupled decay.", low=0.0)
    grad_clip: float | None = _setting(None, "Largest norm a gradient may have.", low=0.0, above=True)
    ema: float | None = _setting(
        None, "Average the weights with this decay a step, and keep the average.", low=0.0, high=0.99999
    )
    # Schedule
    steps: int = _setting(5000, "Training steps.", low=1, high=1_000_000_000)
    warmup_steps: int = _setting(0, "Steps over which the learning rate rises; at most half of all.", low=0)
    schedule: str = _setting(
        "constant",
        "Learning rate after the warm-up: level, or falling to 0 (wsd: over the last 40%).",
        choices=("constant", "cosine", "linear", "wsd"),
    )
    # Data
    batch_size: int = _setting(16, "Text windows a step.", low=1)
    grad_accumulation_steps: int = _setting(1, "Batches whose gradients make one step.", low=1)
    seed: int = _setting(0, "Decides the first weights, the batches and the dropout.", low=0, high=2**31 - 1)
    # Looking and keeping
    eval_every: int = _setting(250, "Steps between two full validations.", low=1)
    save_every: int = _setting(250, "Steps between two checkpoints.", low=1)
    sample_every: int | None = _setting(500, "Steps between two sample texts.", low=1)
    patience: int | None = _setting(None, "Stop after this many validations without a new best.", low=1)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value, limits = getattr(self, item.name), item.metadata
            if value is None and is_optional(item):
                continue
            if "choices" in limits:
                choices = ", ".join(limits["choices"])
                check(value in limits["choices"], f"{item.name} must be one of {choices}; not {brief(value)}")
            elif str(item.type).startswith("int"):
                check_count(item.name, value, limits.get("low", 0), limits.get("high", MAX_SIZE))
            else:
                high = limits.get("high", math.inf)
                check_number(item.name, value, limits["low"], high, above=limits.get("above", False))

    def model_config(self, vocab_size: int, eos_id: int) -> ModelConfig:
        """The model these settings describe, for a vocabulary of `vocab_size` ids."""
        check(
            self.width % self.heads == 0,
            f"width {self.width} does not divide into {self.heads} heads; choose a multiple",
        )
        if self.family == "gpt2":
            return GPT2Config(vocab_size, self.context, self.width, self.layers, self.heads, eos_ids=(eos_id,))
        return Qwen3Config(
            vocab_size,
            self.context,
            self.width,
            self.layers,
            self.heads,
            kv_heads=self.heads,
            head_dim=self.width // self.heads,
            # SwiGLU has three matrices where GELU has two: 8/3 of the width costs as much as 4 times
            # the width there (Shazeer 2020, section 3). Multiples of 32 can be quantised.
            hidden=max(32, round(self.width * 8 / 3 / 32) * 32),
            eos_ids=(eos_id,),
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: object) -> TrainConfig:
        """Settings read back from `train.json`; raises TinyLMError for keys that are unknown or missing."""
        if not isinstance(raw, dict):
            raise TinyLMError("the settings are not a JSON object")
        names = {item.name for item in dataclasses.fields(cls)}
        if wrong := sorted(raw.keys() ^ names):
            raise TinyLMError(f"unknown or missing settings: {', '.join(map(str, wrong))[:200]}")
        return cls(**raw)


def is_optional(item: dataclasses.Field[Any]) -> bool:
    """Whether a TrainConfig field may be None, which means off."""
    return "None" in str(item.type)
