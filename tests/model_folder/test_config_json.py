"""config.json: what is written, what other tools' files mean, what is refused and in which words."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BOTH, GPT2, QWEN3, every_family

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.model_folder.config_json import model_config_from_json, model_config_to_json
from mlx_tinylm.model_folder.folder import read_config

# The keys that count in the config.json files of OpenAI's gpt2 and Qwen's Qwen3-0.6B, and a few that do not.
OPENAI_GPT2 = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12}
OPENAI_GPT2 |= {"n_head": 12, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "eos_token_id": 50256}
OPENAI_GPT2 |= {"attn_pdrop": 0.1, "task_specific_params": {"text-generation": {"do_sample": True}}}
QWEN3_06B = {"model_type": "qwen3", "vocab_size": 151936, "max_position_embeddings": 40960, "hidden_size": 1024}
QWEN3_06B |= {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
QWEN3_06B |= {"intermediate_size": 3072, "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 1000000}
QWEN3_06B |= {"attention_bias": False, "use_sliding_window": False, "rope_scaling": None, "tie_word_embeddings": True}
QWEN3_06B |= {"eos_token_id": 151645, "sliding_window": None, "max_window_layers": 28, "torch_dtype": "bfloat16"}

# What other quantised folders are told.
OPENS = "what opens here is affine, with 2, 3, 4, 5, 6, 8 bits, the same for all matrices"


def refused(raw: object) -> str:
    """The message that refuses `raw`: one line of a bearable length."""
    with pytest.raises(TinyLMError) as error:
        model_config_from_json(raw)
    return checked(str(error.value))


def checked(message: str) -> str:
    assert message
    assert len(message.splitlines()) == 1
    assert len(message) < 300
    return message


@every_family
@pytest.mark.parametrize("eos_ids", [(), (12,), (3, 12)])
@pytest.mark.parametrize("quantization", [None, Quantization(4, 32)])
def test_round_trip(config: ModelConfig, eos_ids: tuple[int, ...], quantization: Quantization | None) -> None:
    """What is written is read back equal, whatever is not the default."""
    changes: dict[str, Any] = {"norm_eps": 0.003, "tied": False, "eos_ids": eos_ids, "quantization": quantization}
    changed = dataclasses.replace(config, **changes)
    assert model_config_from_json(json.loads(json.dumps(model_config_to_json(changed)))) == changed
    assert model_config_from_json(model_config_to_json(config)) == config


def test_keys_that_other_tools_look_for() -> None:
    """mlx-lm's gpt2 needs n_ctx; RoPE's base and the quantisation stand wherever a tool looks for them."""
    gpt2 = model_config_to_json(dataclasses.replace(GPT2, quantization=Quantization(4, 32)))
    assert gpt2["n_ctx"] == gpt2["n_positions"] == 8
    assert gpt2["activation_function"] == "gelu_new"
    assert gpt2["quantization"] == gpt2["quantization_config"] == {"group_size": 32, "bits": 4}
    qwen3 = model_config_to_json(dataclasses.replace(QWEN3, rope_theta=5e5))
    assert qwen3["rope_theta"] == 5e5
    assert qwen3["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    assert (qwen3["head_dim"], qwen3["attention_bias"], qwen3["hidden_act"]) == (6, False, "silu")


def test_configs_of_published_models() -> None:
    """The originals of both families open, with the defaults their files leave out."""
    gpt2 = model_config_from_json(OPENAI_GPT2)
    assert gpt2 == GPT2Config(50257, 1024, 768, 12, 12, eos_ids=(50256,))
    assert (gpt2.head_dim, gpt2.tied) == (64, True)
    qwen3 = Qwen3Config(151936, 40960, 1024, 28, 16, 8, 128, 3072, rope_theta=1000000, eos_ids=(151645,))
    assert model_config_from_json(QWEN3_06B) == qwen3
    without = {"head_dim": 128, "num_key_value_heads": 16, "rope_theta": 10_000, "tie_word_embeddings": False}
    shorter = {key: value for key, value in QWEN3_06B.items() if key not in without}
    expected = dataclasses.replace(qwen3, kv_heads=16, rope_theta=10_000, tied=False)
    assert model_config_from_json(shorter) == expected
    # transformers 5 writes RoPE's base into rope_parameters alone
    theirs = shorter | {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    assert model_config_from_json(theirs) == dataclasses.replace(expected, rope_theta=77.0)


@every_family
def test_each_size_is_needed(config: ModelConfig) -> None:
    """A size without which there is no model is asked for by its key."""
    keys = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    if config == QWEN3:
        keys = ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads")
    raw = model_config_to_json(config)
    for key in keys if config == GPT2 else [*keys, "intermediate_size"]:
        assert refused({other: value for other, value in raw.items() if other != key}) == f"{key} is missing"


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (GPT2, {"model_type": "llama"}, "model_type is 'llama'; the families here are gpt2, qwen3"),
        (GPT2, {"model_type": ["gpt2"]}, "model_type is ['gpt2']; the families here are gpt2, qwen3"),
        (GPT2, {"layer_norm_epsilon": 0}, "norm_eps must be a number at least 1e-12 and at most 1, not 0"),
        (QWEN3, {"rope_theta": 0}, "rope_theta must be a number above 0, not 0"),
        (GPT2, {"eos_token_id": "end"}, "eos_token_id must be a whole number from 0 to 10,000,000, not 'end'"),
        (GPT2, {"eos_token_id": [1, -2]}, "eos_token_id must be a whole number from 0 to 10,000,000, not -2"),
        # what would change the mathematics
        (GPT2, {"activation_function": "relu"}, "activation_function is 'relu'; this program supports 'gelu_new'"),
        (GPT2, {"n_inner": 100}, "n_inner is 100; this program supports None or 64"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights is False; this program supports True"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention is True; this program supports False"),
        (QWEN3, {"hidden_act": "gelu"}, "hidden_act is 'gelu'; this program supports 'silu'"),
        (QWEN3, {"attention_bias": True}, "attention_bias is True; this program supports False"),
        (QWEN3, {"use_sliding_window": True}, "use_sliding_window is True; this program supports False"),
        (QWEN3, {"rope_scaling": {"type": "yarn"}}, "rope_scaling is {'type': 'yarn'}; this program supports None"),
        (QWEN3, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; this program supports 'default'"),
        (QWEN3, {"rope_parameters": [1]}, "rope_parameters must be an object, not [1]"),
        (QWEN3, {"layer_types": ["sliding_attention"]}, "only full_attention layers are supported"),
        (QWEN3, {"layer_types": 5}, "layer_types is 5; only full_attention layers are supported"),
        # quantisation
        (GPT2, {"quantization": 4}, "quantization must be an object, not 4"),
        (GPT2, {"quantization": {"bits": 4}}, "group_size is missing"),
        (GPT2, {"quantization": {"group_size": 64}}, "bits is missing"),
        (GPT2, {"quantization": {"bits": 7, "group_size": 64}}, "quantization bits must be one of 2, 3, 4, 5, 6, 8, "),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, f"mode is 'mxfp4'; {OPENS}"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 16, "mode": "nvfp4"}}, f"mode is 'nvfp4'; {OPENS}"),
        (GPT2, {"quantization": {"bits": 8, "group_size": 32, "mode": "mxfp8"}}, f"mode is 'mxfp8'; {OPENS}"),
        (GPT2, {"quantization": {"bits": 4, "group_size": 32, "wte": {"bits": 6}}}, f"(wte); {OPENS}"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "lm_head": {"bits": 8}}}, "per layer is not"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "lm_head": False}}, "not supported (lm_head)"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_what_is_refused_says_why(config: ModelConfig, changes: dict[str, Any], expected: str) -> None:
    """Each value that this program cannot honour is refused by name, with what would do."""
    assert expected in refused(model_config_to_json(config) | changes)


def test_what_is_no_object_or_has_no_meaning_here() -> None:
    """JSON that is no object is refused; keys of other tools, those that ask to run code among them, change nothing."""
    raw = model_config_to_json(GPT2)
    for nothing in (None, [], "gpt2", 3, True, [raw]):
        assert refused(nothing) == "not a JSON object"
    extra = {"auto_map": {"AutoModel": "evil.Model"}, "model_file": "evil.py", "n_layers": 99, "dtype": "float16"}
    assert model_config_from_json(raw | extra) == GPT2


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 4, 10**9, -(10**300), 10**400])
    | st.floats()
    | st.text(max_size=50)
    | st.sampled_from(["gpt2", "qwen3", "default", "affine", "full_attention", "\n\x1b[2J", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_json_is_a_config_or_one_line(data: st.DataObject) -> None:
    """Whatever stands under whichever keys: a configuration comes out or a one-line TinyLMError, nothing else."""
    whole = model_config_to_json(data.draw(st.sampled_from(BOTH)))
    raw = whole | {"quantization": None, "layer_types": None}
    for key in data.draw(st.lists(st.sampled_from(sorted(raw)), min_size=1, max_size=3)):
        raw[key] = data.draw(junk)
    try:
        config = model_config_from_json(raw)
    except TinyLMError as error:
        checked(str(error))
    else:
        assert model_config_from_json(model_config_to_json(config)) == config


@pytest.mark.parametrize("key", ["n_embd", "activation_function"])
def test_deep_nesting(key: str, tmp_path: Path) -> None:
    """Brackets nested to every depth around what Python's stack allows end in one line that names the file."""
    limit = sys.getrecursionlimit()
    for depth in [50, *range(limit - 150, limit + 4, 2), 100_000]:
        text = json.dumps(model_config_to_json(GPT2) | {key: "HERE"}).replace('"HERE"', "[" * depth + "]" * depth)
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TinyLMError) as error:
            read_config(tmp_path)
        assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")
        assert len(str(error.value)) < 400
