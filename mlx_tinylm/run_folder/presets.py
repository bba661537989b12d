"""Settings that belong together, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlx_tinylm.checks import brief, settings_of
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.settings import TrainConfig

# Each says what differs from the defaults of TrainConfig. With subwords, `vocab_size` makes the table of their vectors
# about a fifth of the model.
PRESETS: Mapping[str, TrainConfig] = {
    # Deep and narrow, and a learning rate that falls from the first step: the most from a short run.
    "tiny": TrainConfig(),
    # The same for longer, with a stronger decay against learning the text by heart.
    "best": TrainConfig(steps=1500, muon_weight_decay=0.3),
    # The size and settings of nanoGPT's model of the same text (github.com/karpathy/nanoGPT), for a GPU.
    "baby": TrainConfig(
        family="gpt2",
        vocab_size=8192,
        layers=6,
        heads=6,
        width=384,
        dropout=0.2,
        optimizer="adamw",
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.99,
        weight_decay=0.1,
        muon_learning_rate=0.02,
        grad_clip=1.0,
        steps=5000,
        warmup_steps=100,
        schedule="cosine",
        batch_size=64,
    ),
    # The run of the article that this program grew from.
    "seed": TrainConfig(
        family="gpt2",
        vocab_size=2048,
        layers=3,
        width=256,
        dropout=0.2,
        optimizer="adamw",
        learning_rate=3e-4,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.01,
        muon_learning_rate=0.02,
        steps=5000,
        schedule="constant",
    ),
    # A first look: small, short, and looked at often.
    "nano": TrainConfig(
        family="gpt2",
        vocab_size=1024,
        layers=2,
        width=128,
        context=64,
        optimizer="adamw",
        beta1=0.9,
        weight_decay=0.1,
        muon_learning_rate=0.02,
        grad_clip=1.0,
        steps=600,
        warmup_steps=50,
        schedule="cosine",
        eval_every=200,
        save_every=200,
        sample_every=200,
    ),
}
DEFAULT_PRESET = "tiny"


def settings_that_differ() -> list[str]:
    """The names of the settings that are not the same in all presets."""
    names = (field.name for field in dataclasses.fields(TrainConfig))
    return [name for name in names if len({getattr(each, name) for each in PRESETS.values()}) > 1]


def preset(name: str, **changes: Any) -> TrainConfig:
    """The preset of that name with `changes` applied; raises TinyLMError for an unknown name, of it or of a setting."""
    if not isinstance(name, str) or name not in PRESETS:
        raise TinyLMError(f"no preset {brief(name)}; there are {', '.join(PRESETS)}")
    if unknown := sorted(changes.keys() - settings_of(TrainConfig).keys()):
        raise TinyLMError(f"no setting {', '.join(unknown)}; there are {', '.join(settings_of(TrainConfig))}")
    return dataclasses.replace(PRESETS[name], **changes)
