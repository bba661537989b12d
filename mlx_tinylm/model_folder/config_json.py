"""`config.json` and `generation_config.json` as mlx-lm and transformers know them: written whole, read strictly.

Other tools write dozens of keys. Only those matter that size the model, or that would change its mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlx_tinylm.checks import brief, check, whole
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import BITS, GPT2Config, ModelConfig, Quantization, Qwen3Config


def model_config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The content of the `config.json` of a model."""
    return _gpt2_to_json(config) if isinstance(config, GPT2Config) else _qwen3_to_json(config)


def model_config_from_json(raw: object) -> ModelConfig:
    """The configuration a `config.json` describes; raises TinyLMError if no family here covers it."""
    if not isinstance(raw, dict):
        raise TinyLMError("not a JSON object")
    families: dict[str, Callable[[Mapping[str, Any]], ModelConfig]] = {
        GPT2Config.family: _gpt2_from_json,
        Qwen3Config.family: _qwen3_from_json,
    }
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in families:
        raise TinyLMError(f"model_type is {brief(family)}; the families here are {', '.join(families)}")
    return families[family](raw)


def generation_config_to_json(config: ModelConfig) -> dict[str, Any]:
    """The content of the `generation_config.json` of a model."""
    content = {"do_sample": True, "eos_token_id": _common_to_json(config)["eos_token_id"]}
    return content | ({"suppress_tokens": list(config.suppressed)} if config.suppressed else {})


def suppressed_from_json(raw: object) -> tuple[int, ...]:
    """The ids that a `generation_config.json` rules out, each once; raises TinyLMError for what is no list of them.

    Nothing else in such a file changes what is written here: the settings of generation are the user's own.
    """
    if not isinstance(raw, dict):
        raise TinyLMError("not a JSON object")
    ids = raw.get("suppress_tokens")
    if ids is None:
        return ()
    check(
        isinstance(ids, list) and all(whole(id) is not None for id in ids),
        f"suppress_tokens must be a list of ids, not {brief(ids)}",
    )
    return tuple(sorted(set(ids)))


def _gpt2_to_json(config: GPT2Config) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_ctx": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        **_common_to_json(config),
    }


def _gpt2_from_json(raw: Mapping[str, Any]) -> GPT2Config:
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
    return GPT2Config(
        context=_required(raw, "n_positions"),
        width=_required(raw, "n_embd"),
        layers=_required(raw, "n_layer"),
        heads=_required(raw, "n_head"),
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        **_common_from_json(raw, tied=True),
    )


def _qwen3_to_json(config: Qwen3Config) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # transformers 5 reads rope_parameters; transformers 4 and mlx-lm read rope_theta.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        **_common_to_json(config),
    }


def _qwen3_from_json(raw: Mapping[str, Any]) -> Qwen3Config:
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
    heads = _required(raw, "num_attention_heads")
    return Qwen3Config(
        context=_required(raw, "max_position_embeddings"),
        width=_required(raw, "hidden_size"),
        layers=_required(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=raw.get("num_key_value_heads", heads),
        # 128 is what transformers assumes where a Qwen3 config leaves it out.
        head_dim=raw.get("head_dim", 128),
        hidden=_required(raw, "intermediate_size"),
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=raw.get("rope_theta", rope.get("rope_theta", 10_000.0)),
        **_common_from_json(raw, tied=False),
    )


def _common_to_json(config: ModelConfig) -> dict[str, Any]:
    """The keys that every architecture has."""
    eos = config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids) or None
    common: dict[str, Any] = {
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": eos,
    }
    if config.quantization:
        quantization = {"group_size": config.quantization.group_size, "bits": config.quantization.bits}
        # mlx-lm writes both keys: the second is where transformers looks.
        common |= {"quantization": quantization, "quantization_config": quantization}
    return common


def _common_from_json(raw: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """The fields that both configurations have; `tied` is what a file means that does not say."""
    eos = raw.get("eos_token_id")
    quantization = raw.get("quantization")
    return {
        "vocab_size": _required(raw, "vocab_size"),
        "tied": raw.get("tie_word_embeddings", tied),
        "eos_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        "quantization": None if quantization is None else _quantization_from_json(quantization),
    }


def _quantization_from_json(raw: object) -> Quantization:
    if not isinstance(raw, dict):
        raise TinyLMError(f"quantization must be an object, not {brief(raw)}")
    opens = f"what opens here is affine, with {', '.join(map(str, BITS))} bits, the same for all matrices"
    mode = raw.get("mode", "affine")
    check(mode == "affine", f"quantization mode is {brief(mode)}; {opens}")
    nested = sorted(key for key, value in raw.items() if isinstance(value, dict | bool))
    check(not nested, f"quantization per layer is not supported ({', '.join(nested)[:80]}); {opens}")
    return Quantization(_required(raw, "bits"), _required(raw, "group_size"))


def _required(raw: Mapping[str, Any], key: str) -> Any:
    check(key in raw, f"{key} is missing")
    return raw[key]


def _check_fixed(raw: Mapping[str, Any], fixed: Mapping[str, tuple[object, ...]]) -> None:
    """Raise TinyLMError for a key whose value asks for mathematics that is not computed here."""
    for key, allowed in fixed.items():
        if key in raw and raw[key] not in allowed:
            wanted = " or ".join(brief(value) for value in allowed)
            raise TinyLMError(f"{key} is {brief(raw[key])}; this program supports {wanted}")
