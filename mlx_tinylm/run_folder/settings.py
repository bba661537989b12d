"""The settings of a training run, with their limits and help texts; the defaults are those of the preset `tiny`."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_tinylm.checks import Settings, check, setting
from mlx_tinylm.model_folder.config import MAX_LAYERS, GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.text.characters import CHARACTERS

LEAST_SUBWORDS = 258  # all bytes, what ends a text, and what pads


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Everything that decides what a run computes. `None` means off."""

    # Text
    tokenizer: str = setting(
        str,
        CHARACTERS,
        "What the model reads: char, bpe (subwords), or the folder of a model that has a tokenizer.",
        older=CHARACTERS,
    )
    vocab_size: int = setting(
        int, 4096, "Subwords at most, of --tokenizer bpe.", low=LEAST_SUBWORDS, high=1_000_000, older=4096
    )
    # Model
    family: str = setting(str, "qwen3", "Architecture of the model.", choices=("gpt2", "qwen3"))
    layers: int = setting(int, 8, "Transformer blocks.", low=1, high=MAX_LAYERS)
    heads: int = setting(int, 4, "Attention heads in a block.", low=1)
    width: int = setting(int, 160, "Size of the vector that stands for a character or subword.", low=1)
    context: int = setting(int, 256, "Characters or subwords the model sees at once.", low=2)
    dropout: float = setting(float, 0.0, "Share of activations switched off in training.", low=0.0, high=0.95)
    # Optimizer
    optimizer: str = setting(str, "muon", "Muon trains the matrices, AdamW the rest.", choices=("adamw", "muon"))
    learning_rate: float = setting(float, 3e-3, "Peak learning rate of AdamW.", low=0.0, above=True)
    beta1: float = setting(float, 0.8, "AdamW's decay of the mean gradient.", low=0.0, high=0.9999)
    beta2: float = setting(float, 0.95, "AdamW's decay of the mean squared gradient.", low=0.0, high=0.99999)
    weight_decay: float = setting(float, 0.0, "AdamW's decoupled decay of the matrices.", low=0.0)
    muon_learning_rate: float = setting(float, 0.03, "Peak learning rate of Muon.", low=0.0, above=True)
    muon_weight_decay: float = setting(float, 0.1, "Muon's decoupled decay.", low=0.0)
    grad_clip: float | None = setting(float, None, "Largest norm a gradient may have.", low=0.0, above=True)
    ema: float | None = setting(
        float, None, "Average the weights with this decay a step, and keep the average.", low=0.0, high=0.99999
    )
    # Schedule
    steps: int = setting(int, 1000, "Training steps.", low=1, high=1_000_000_000)
    warmup_steps: int = setting(int, 0, "Steps over which the learning rate rises; at most half of all.", low=0)
    schedule: str = setting(
        str,
        "linear",
        "Learning rate after the warm-up: level, or falling to 0 (wsd: over the last 40%).",
        choices=("constant", "cosine", "linear", "wsd"),
    )
    # Data
    batch_size: int = setting(int, 16, "Text windows a step.", low=1)
    grad_accumulation_steps: int = setting(int, 1, "Batches whose gradients make one step.", low=1)
    mask_prompt: bool = setting(bool, True, "Of pairs, learn completions only, not prompts.", older=True)
    seed: int = setting(int, 0, "Decides the first weights, the batches and the dropout.", low=0, high=2**31 - 1)
    # Looking and keeping
    eval_every: int = setting(int, 250, "Steps between two full validations.", low=1)
    save_every: int = setting(int, 250, "Steps between two checkpoints.", low=1)
    sample_every: int | None = setting(int, 500, "Steps between two sample texts.", low=1, optional=True)
    history: int | None = setting(
        int, 3, "Snapshots of the weights to keep, for each tenfold of steps.", low=1, high=5, optional=True, older=None
    )
    patience: int | None = setting(int, None, "Stop after this many validations without a new best.", low=1)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.grad_accumulation_steps * self.context

    def model_config(self, vocab_size: int, eos_id: int | None) -> ModelConfig:
        """The model these settings describe, for a vocabulary of `vocab_size` ids, of which `eos_id` ends a text."""
        eos_ids = () if eos_id is None else (eos_id,)
        check(
            self.width % self.heads == 0,
            f"width {self.width} does not divide into {self.heads} heads; choose a multiple",
        )
        if self.family == "gpt2":
            return GPT2Config(vocab_size, self.context, self.width, self.layers, self.heads, eos_ids=eos_ids)
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
            eos_ids=eos_ids,
        )
