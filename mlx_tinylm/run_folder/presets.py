"""Settings that belong together, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.run_folder.settings import TrainConfig

# Deep and narrow, and a learning rate that falls from the first step: the most from a short run.
TINY = TrainConfig(
    family="qwen3",
    layers=8,
    heads=4,
    width=160,
    steps=1000,
    optimizer="muon",
    muon_learning_rate=0.03,
    learning_rate=3e-3,
    beta1=0.8,
    weight_decay=0.0,
    schedule="linear",
)


PRESETS: Mapping[str, TrainConfig] = {
    "tiny": TINY,
    # The same for longer, with a stronger decay against learning the text by heart.
    "best": dataclasses.replace(TINY, steps=1500, muon_weight_decay=0.3),
    # The size and settings of nanoGPT's model of the same text (github.com/karpathy/nanoGPT), for a GPU.
    "baby": TrainConfig(
        layers=6,
        heads=6,
        width=384,
        dropout=0.2,
        learning_rate=1e-3,
        beta2=0.99,
        grad_clip=1.0,
        warmup_steps=100,
        schedule="cosine",
        batch_size=64,
    ),
    # The run of the article that this program grew from.
    "seed": TrainConfig(dropout=0.2, weight_decay=0.01, beta2=0.999),
    # A first look, in about a minute on two CPU cores.
    "nano": TrainConfig(
        layers=2,
        heads=4,
        width=128,
        context=64,
        steps=600,
        learning_rate=3e-3,
        warmup_steps=50,
        schedule="cosine",
        grad_clip=1.0,
        eval_every=200,
        save_every=200,
        sample_every=200,
    ),
}


DEFAULT_PRESET = "tiny"


def preset(name: str, **changes: Any) -> TrainConfig:
    """The preset of that name with `changes` applied; raises TinyLMError for an unknown name."""
    if name not in PRESETS:
        raise TinyLMError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[name], **changes)
