"""What a model is: one of two stock architectures and its sizes, frozen, and checked on construction.

Its `config.json`, which means the same to mlx-lm and transformers, is read and written in `config_json.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from mlx_tinylm.checks import brief, check, check_count, check_number, whole

# Far above any model this program is for. They keep a hostile config.json from asking for the moon
# before its sizes have been compared with the tensors that are really there.
MAX_LAYERS = 1_000

# MLX's affine quantisation.
BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Quantization:
    """MLX's affine format: groups of `group_size` weights in a row share one scale and one bias."""

    bits: int
    group_size: int

    def __post_init__(self) -> None:
        bits, group_size = whole(self.bits), whole(self.group_size)
        for name, value, known in (("bits", bits, BITS), ("group_size", group_size, GROUP_SIZES)):
            check(
                value in known,
                f"quantization {name} must be one of {', '.join(map(str, known))}, not {brief(getattr(self, name))}",
            )
        _keep(self, bits=bits, group_size=group_size)


@dataclass(frozen=True)
class GPT2Config:
    """GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases; the MLP is 4 x width."""

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    norm_eps: float = 1e-5
    tied: bool = True
    eos_ids: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()  # ids that training never showed: generation never draws them
    quantization: Quantization | None = None
    family: ClassVar[str] = "gpt2"

    def __post_init__(self) -> None:
        _check_shape(self)
        check(
            self.width % self.heads == 0,
            f"width {self.width} does not divide into {self.heads} heads; choose a multiple",
        )

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class Qwen3Config:
    """Qwen3 (Yang et al. 2025): RoPE, RMSNorm, per-head norms of q and k, SwiGLU, no biases."""

    vocab_size: int
    context: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tied: bool = True
    eos_ids: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()  # ids that training never showed: generation never draws them
    quantization: Quantization | None = None
    family: ClassVar[str] = "qwen3"

    def __post_init__(self) -> None:
        _check_shape(self)
        for name in ("kv_heads", "head_dim", "hidden"):
            _keep(self, **{name: check_count(name, getattr(self, name))})
        _keep(self, rope_theta=check_number("rope_theta", self.rope_theta, 0, math.inf, above=True))
        check(
            self.heads % self.kv_heads == 0,
            f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly; choose a divisor",
        )
        check(self.head_dim % 2 == 0, f"RoPE turns pairs: head_dim must be even, not {self.head_dim}")


ModelConfig: TypeAlias = GPT2Config | Qwen3Config


def _check_shape(config: ModelConfig) -> None:
    for name in ("vocab_size", "context", "width", "heads"):
        _keep(config, **{name: check_count(name, getattr(config, name))})
    check(isinstance(config.tied, bool), f"tie_word_embeddings must be true or false, not {brief(config.tied)}")
    last = config.vocab_size - 1
    _keep(
        config,
        layers=check_count("layers", config.layers, high=MAX_LAYERS),
        norm_eps=check_number("norm_eps", config.norm_eps, 1e-12, 1),  # less would be 0 in float32, and divide by it
        eos_ids=tuple(check_count("eos_token_id", id, low=0) for id in config.eos_ids),
        suppressed=tuple(check_count("an id of suppress_tokens", id, 0, last) for id in config.suppressed),
    )
    check(
        len(set(config.suppressed)) < config.vocab_size,
        "suppress_tokens names every id, which leaves none to write; leave it out",
    )


def _keep(config: ModelConfig | Quantization, **plain: object) -> None:
    """Put Python's own numbers in the place of NumPy's, which JSON does not know, while a config is made."""
    for name, value in plain.items():
        object.__setattr__(config, name, value)


def dropout_places(layers: int) -> int:
    """In how many places a model drops: behind the embedding, and in each block behind attention and MLP."""
    return 1 + 2 * layers
