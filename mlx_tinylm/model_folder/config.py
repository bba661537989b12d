"""Model shapes and sampling settings: frozen, checked on construction, read from and written to JSON.

A model configuration is one of two stock architectures, so that its `config.json` means the same to
mlx-lm and transformers. The training settings and their presets are in `training_config.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from mlx_tinylm.checks import brief, check, check_count, check_number
from mlx_tinylm.errors import TinyLMError

# Far above any model this program is for. They keep a hostile config.json from asking for the moon
# before its sizes have been compared with the tensors that are really there.
MAX_LAYERS = 1_000


@dataclass(frozen=True)
class Quantization:
    """MLX's affine format: groups of `group_size` weights in a row share one scale and one bias."""

    bits: int
    group_size: int

    def __post_init__(self) -> None:
        bits, group_size = self.bits, self.group_size
        check(isinstance(bits, int) and bits in (4, 8), f"quantization bits must be 4 or 8, not {brief(bits)}")
        check(
            isinstance(group_size, int) and group_size in (32, 64, 128),
            f"quantization group_size must be 32, 64 or 128, not {brief(group_size)}",
        )


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

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that mlx-lm and transformers read."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "n_positions": self.context,
            "n_ctx": self.context,
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": self.norm_eps,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            **_shared_json(self),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> GPT2Config:
        """Read a `config.json`; raises TinyLMError for what this architecture does not cover."""
        width = raw.get("n_embd")
        _check_fixed(
            raw,
            {
                "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
                "n_inner": (None, 4 * width if isinstance(width, int) else None),
                "scale_attn_weights": (True,),
                "scale_attn_by_inverse_layer_idx": (False,),
                "add_cross_attention": (False,),
            },
        )
        return cls(
            context=_required(raw, "n_positions"),
            width=_required(raw, "n_embd"),
            layers=_required(raw, "n_layer"),
            heads=_required(raw, "n_head"),
            norm_eps=raw.get("layer_norm_epsilon", 1e-5),
            **_shared_fields(raw, tied=True),
        )


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
    quantization: Quantization | None = None
    family: ClassVar[str] = "qwen3"

    def __post_init__(self) -> None:
        _check_shape(self)
        check_count("kv_heads", self.kv_heads)
        check_count("head_dim", self.head_dim)
        check_count("hidden", self.hidden)
        check_number("rope_theta", self.rope_theta, 0, math.inf, above=True)
        check(
            self.heads % self.kv_heads == 0,
            f"{self.heads} heads cannot share {self.kv_heads} key-value heads evenly; choose a divisor",
        )
        check(self.head_dim % 2 == 0, f"RoPE turns pairs: head_dim must be even, not {self.head_dim}")

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that mlx-lm and transformers read."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": self.family,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            # transformers 5 reads rope_parameters; transformers 4 and mlx-lm read rope_theta.
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            **_shared_json(self),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Qwen3Config:
        """Read a `config.json`; raises TinyLMError for what this architecture does not cover."""
        _check_fixed(
            raw,
            {
                "hidden_act": ("silu",),
                "attention_bias": (False,),
                "use_sliding_window": (False,),
                "rope_scaling": (None,),
            },
        )
        layer_types = raw.get("layer_types") or ["full_attention"]
        check(
            isinstance(layer_types, list) and all(kind == "full_attention" for kind in layer_types),
            f"layer_types is {brief(layer_types)}; only full_attention layers are supported",
        )
        rope = raw.get("rope_parameters") or {}
        check(isinstance(rope, dict), f"rope_parameters must be an object, not {brief(rope)}")
        _check_fixed(rope, {"rope_type": ("default",)})
        heads, width = _required(raw, "num_attention_heads"), _required(raw, "hidden_size")
        return cls(
            context=_required(raw, "max_position_embeddings"),
            width=width,
            layers=_required(raw, "num_hidden_layers"),
            heads=heads,
            kv_heads=raw.get("num_key_value_heads", heads),
            # 128 is what transformers assumes where a Qwen3 config leaves it out.
            head_dim=raw.get("head_dim", 128),
            hidden=_required(raw, "intermediate_size"),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=raw.get("rope_theta", rope.get("rope_theta", 10_000.0)),
            **_shared_fields(raw, tied=False),
        )


ModelConfig: TypeAlias = GPT2Config | Qwen3Config
FAMILIES: Mapping[str, type[GPT2Config] | type[Qwen3Config]] = {"gpt2": GPT2Config, "qwen3": Qwen3Config}


def model_config_from_json(raw: object) -> ModelConfig:
    """The configuration a `config.json` describes; raises TinyLMError if no family here covers it."""
    if not isinstance(raw, dict):
        raise TinyLMError("not a JSON object")
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise TinyLMError(f"model_type is {brief(family)}; the families here are {', '.join(FAMILIES)}")
    return FAMILIES[family].from_json(raw)


def _check_shape(config: ModelConfig) -> None:
    for name in ("vocab_size", "context", "width", "heads"):
        check_count(name, getattr(config, name))
    check_count("layers", config.layers, high=MAX_LAYERS)
    check_number("norm_eps", config.norm_eps, 1e-12, 1)  # less would be 0 in float32, and divide by it
    check(isinstance(config.tied, bool), f"tie_word_embeddings must be true or false, not {brief(config.tied)}")
    for eos in config.eos_ids:
        check_count("eos_token_id", eos, low=0)


def _shared_json(config: ModelConfig) -> dict[str, Any]:
    eos = config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids) or None
    shared: dict[str, Any] = {
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": eos,
    }
    if config.quantization:
        quantization = {"group_size": config.quantization.group_size, "bits": config.quantization.bits}
        # mlx-lm writes both keys: the second is where transformers looks.
        shared |= {"quantization": quantization, "quantization_config": quantization}
    return shared


def _shared_fields(raw: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    eos = raw.get("eos_token_id")
    quantization = raw.get("quantization")
    if quantization is not None:
        check(isinstance(quantization, dict), f"quantization must be an object, not {brief(quantization)}")
        _check_fixed(quantization, {"mode": ("affine",)})
        nested = sorted(key for key, value in quantization.items() if isinstance(value, dict | bool))
        check(not nested, f"quantization per layer is not supported ({', '.join(nested)[:80]})")
        quantization = Quantization(_required(quantization, "bits"), _required(quantization, "group_size"))
    return {
        "vocab_size": _required(raw, "vocab_size"),
        "tied": raw.get("tie_word_embeddings", tied),
        "eos_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        "quantization": quantization,
    }


def _required(raw: Mapping[str, Any], key: str) -> Any:
    check(key in raw, f"{key} is missing")
    return raw[key]


def _check_fixed(raw: Mapping[str, Any], fixed: Mapping[str, tuple[object, ...]]) -> None:
    """Other tools write dozens of keys; only those that would change the mathematics matter here."""
    for key, allowed in fixed.items():
        if key in raw and raw[key] not in allowed:
            wanted = " or ".join(brief(value) for value in allowed)
            raise TinyLMError(f"{key} is {brief(raw[key])}; this program supports {wanted}")
