"""Model shapes and sampling settings: what is taken, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.checks import check_count, check_number
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config, model_config_from_json
from mlx_tinylm.model_folder.folder import read_config
from mlx_tinylm.sampling import SampleConfig

GPT2 = GPT2Config(vocab_size=13, context=12, width=16, layers=2, heads=4, eos_ids=(12,))
QWEN3 = Qwen3Config(
    vocab_size=13, context=12, width=16, layers=2, heads=4, kv_heads=2, head_dim=6, hidden=20, eos_ids=(12,)
)
BOTH: list[ModelConfig] = [GPT2, QWEN3]
every_family = pytest.mark.parametrize("config", BOTH, ids=lambda config: config.family)

# The config.json files that OpenAI's gpt2 and Qwen's Qwen3-0.6B are published with, but for their odd keys.
OPENAI_GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
QWEN3_06B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


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
    """What is written to config.json is read back equal, whatever is not the default."""
    changes: dict[str, Any] = {"norm_eps": 0.003, "tied": False, "eos_ids": eos_ids, "quantization": quantization}
    changed = dataclasses.replace(config, **changes)
    assert model_config_from_json(json.loads(json.dumps(changed.to_json()))) == changed
    assert model_config_from_json(config.to_json()) == config


def test_keys_that_other_tools_look_for() -> None:
    """mlx-lm's gpt2 needs n_ctx; RoPE's base stands where transformers 5 and where mlx-lm look for it."""
    assert GPT2.to_json()["n_ctx"] == GPT2.to_json()["n_positions"] == 12
    assert GPT2.to_json()["activation_function"] == "gelu_new"
    qwen3 = dataclasses.replace(QWEN3, rope_theta=5e5).to_json()
    assert qwen3["rope_theta"] == 5e5
    assert qwen3["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}
    assert (qwen3["head_dim"], qwen3["attention_bias"], qwen3["hidden_act"]) == (6, False, "silu")


def test_configs_of_published_models() -> None:
    """The originals of both families open, with the defaults their files leave out."""
    gpt2 = model_config_from_json(OPENAI_GPT2)
    assert gpt2 == GPT2Config(50257, 1024, 768, 12, 12, eos_ids=(50256,))
    assert gpt2.head_dim == 64
    assert gpt2.tied
    qwen3 = model_config_from_json(QWEN3_06B)
    shape = {"kv_heads": 8, "head_dim": 128, "hidden": 3072, "rope_theta": 1000000, "eos_ids": (151645,)}
    assert qwen3 == Qwen3Config(151936, 40960, 1024, 28, 16, **shape)  # type: ignore[arg-type]
    without_tie = {key: value for key, value in QWEN3_06B.items() if key != "tie_word_embeddings"}
    assert not model_config_from_json(without_tie).tied


def test_rope_base_of_transformers_5() -> None:
    """Where only rope_parameters holds the base, it is read from there."""
    raw = QWEN3.to_json() | {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
    del raw["rope_theta"]
    config = model_config_from_json(raw)
    assert isinstance(config, Qwen3Config)
    assert config.rope_theta == 77.0


@pytest.mark.parametrize(
    ("config", "key"),
    [
        *((GPT2, key) for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")),
        *((QWEN3, key) for key in ("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers")),
        *((QWEN3, key) for key in ("num_attention_heads", "intermediate_size")),
    ],
    ids=str,
)
def test_missing_keys_are_named(config: ModelConfig, key: str) -> None:
    """A size without which there is no model is asked for by its key."""
    raw = config.to_json()
    del raw[key]
    assert refused(raw) == f"{key} is missing"


SIZES = {
    "gpt2": ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"),
    "qwen3": (
        *("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "intermediate_size"),
    ),
}
NO_SIZES = [0, -1, 10**9, 10**400, 3.0, 0.5, math.nan, math.inf, "4", "", True, False, None, [], [4], {}, {"n": 4}]


@every_family
@pytest.mark.parametrize("value", NO_SIZES, ids=lambda value: repr(value)[:20])
def test_sizes_that_are_none(config: ModelConfig, value: object) -> None:
    """No size may be zero, absurdly large, broken, text, true, a list or nothing."""
    for key in SIZES[config.family]:
        message = refused(config.to_json() | {key: value})
        assert "must be a whole number from 1 to" in message, key


@every_family
@pytest.mark.parametrize("value", [0, -1e-5, 2, 10**400, math.nan, math.inf, "1e-5", True, None, [1e-5], {}])
def test_numbers_that_are_none(config: ModelConfig, value: object) -> None:
    """The norm's epsilon is a finite number above 0, and so is RoPE's base."""
    key = "layer_norm_epsilon" if config.family == "gpt2" else "rms_norm_eps"
    assert "norm_eps must be a number at least 1e-12 and at most 1" in refused(config.to_json() | {key: value})
    if config.family == "qwen3" and value != 2:
        assert "rope_theta must be a number above 0, not" in refused(config.to_json() | {"rope_theta": value})


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (GPT2, {"n_head": 3}, "width 16 does not divide into 3 heads; choose a multiple"),
        (GPT2, {"n_embd": 18}, "width 18 does not divide into 4 heads; choose a multiple"),
        (QWEN3, {"num_key_value_heads": 3}, "4 heads cannot share 3 key-value heads evenly; choose a divisor"),
        (QWEN3, {"head_dim": 7}, "RoPE turns pairs: head_dim must be even, not 7"),
        (GPT2, {"model_type": "llama"}, "model_type is 'llama'; the families here are gpt2, qwen3"),
        (GPT2, {"model_type": None}, "model_type is None; the families here are gpt2, qwen3"),
        (GPT2, {"model_type": ["gpt2"]}, "model_type is ['gpt2']; the families here are gpt2, qwen3"),
        (GPT2, {"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
        (GPT2, {"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false, not 1"),
        (GPT2, {"eos_token_id": "end"}, "eos_token_id must be a whole number from 0 to 10,000,000, not 'end'"),
        (GPT2, {"eos_token_id": [1, -2]}, "eos_token_id must be a whole number from 0 to 10,000,000, not -2"),
        (QWEN3, {"eos_token_id": {"a": 1}}, "eos_token_id must be a whole number from 0 to 10,000,000, not {'a': 1}"),
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
        (GPT2, {"quantization": {"bits": 3, "group_size": 64}}, "quantization bits must be 4 or 8, not 3"),
        (GPT2, {"quantization": {"bits": 4.0, "group_size": 64}}, "quantization bits must be 4 or 8, not 4.0"),
        (GPT2, {"quantization": {"bits": [4], "group_size": 64}}, "quantization bits must be 4 or 8, not [4]"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 64.0}}, "group_size must be 32, 64 or 128, not 64.0"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 1}}, "group_size must be 32, 64 or 128, not 1"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}, "mode is 'mxfp4'"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "lm_head": {"bits": 8}}}, "per layer is not"),
        (QWEN3, {"quantization": {"bits": 4, "group_size": 32, "lm_head": False}}, "not supported (lm_head)"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_what_is_refused_says_why(config: ModelConfig, changes: dict[str, Any], expected: str) -> None:
    """Each value that this program cannot honour is refused by name, with what would do."""
    assert expected in refused(config.to_json() | changes)


@pytest.mark.parametrize("raw", [None, [], "gpt2", 3, True, [GPT2.to_json()]])
def test_no_object(raw: object) -> None:
    """JSON that is no object is no configuration."""
    assert refused(raw) == "not a JSON object"


def test_keys_without_a_meaning_here_are_ignored() -> None:
    """Dozens of keys of other tools, those that ask to run code among them, change nothing."""
    extra = {"auto_map": {"AutoModel": "evil.Model"}, "model_file": "evil.py", "n_layers": 99, "dtype": "float16"}
    assert model_config_from_json(GPT2.to_json() | extra) == GPT2


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
    raw = data.draw(st.sampled_from(BOTH)).to_json() | {"quantization": None, "layer_types": None}
    for key in data.draw(st.lists(st.sampled_from(sorted(raw)), min_size=1, max_size=3)):
        raw[key] = data.draw(junk)
    try:
        config = model_config_from_json(raw)
    except TinyLMError as error:
        checked(str(error))
    else:
        assert model_config_from_json(config.to_json()) == config


@pytest.mark.parametrize("key", ["n_embd", "activation_function"])
def test_deep_nesting(key: str, tmp_path: Path) -> None:
    """Brackets nested to every depth around what Python's stack allows end in one line that names the file."""
    limit = sys.getrecursionlimit()
    for depth in [50, *range(limit - 150, limit + 4, 2), 100_000]:
        text = json.dumps(GPT2.to_json() | {key: "HERE"}).replace('"HERE"', "[" * depth + "]" * depth)
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(TinyLMError) as error:
            read_config(tmp_path)
        assert str(error.value).startswith(f"{tmp_path / 'config.json'}: ")
        assert len(str(error.value)) < 400


def test_configs_are_frozen() -> None:
    """No setting changes after it has been checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2.width = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1 to 10,000,000, not 0"),
        ({"max_tokens": 2.5}, "max_tokens must be a whole number"),
        ({"temperature": -0.1}, "temperature must be a number at least 0, not -0.1"),
        ({"temperature": math.nan}, "temperature must be a number at least 0, not nan"),
        ({"temperature": math.inf}, "temperature must be a number at least 0, not inf"),
        ({"temperature": None}, "temperature must be a number at least 0, not None"),
        ({"top_k": 0}, "top_k must be a whole number from 1"),
        ({"top_p": 0.0}, "top_p must be a number above 0 and at most 1, not 0.0"),
        ({"top_p": 1.01}, "top_p must be a number above 0 and at most 1, not 1.01"),
        ({"min_p": -0.1}, "min_p must be a number at least 0 and at most 1, not -0.1"),
        ({"min_p": 1.1}, "min_p must be a number at least 0 and at most 1, not 1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0, not 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a number above 0, not inf"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**63}, "seed must be a whole number from 0"),
        ({"stop": ""}, "the stop text is empty"),
    ],
)
def test_sampling_limits(settings: dict[str, Any], expected: str) -> None:
    """Each sampling setting out of its range is refused with the range."""
    with pytest.raises(TinyLMError) as error:
        SampleConfig(**settings)
    assert expected in checked(str(error.value))


def test_sampling_limits_themselves_are_allowed() -> None:
    """The ends of each range are inside it, and None means off."""
    SampleConfig(max_tokens=1, temperature=0, top_k=1, top_p=1, min_p=0, repetition_penalty=1e-300, seed=0)
    SampleConfig(temperature=1e300, top_p=1e-9, min_p=1, repetition_penalty=1e300, seed=2**63 - 1, stop="\n")
    SampleConfig(top_k=None, top_p=None, min_p=None, repetition_penalty=None, seed=None, stop=None)


def test_checks_include_or_exclude_their_ends() -> None:
    """`check_count` and `check_number` take both ends, but for the lower one of a number that must be above it."""
    for value in (2, 5):
        check_count("n", value, 2, 5)
        check_number("x", value, 2, 5)
    check_number("x", 5, 2, 5, above=True)
    check_number("x", sys.float_info.max, 0, math.inf)
    with pytest.raises(TinyLMError, match="x must be a number above 2 and at most 5, not 2"):
        check_number("x", 2, 2, 5, above=True)
    with pytest.raises(TinyLMError, match="n must be a whole number from 2 to 5, not 6"):
        check_count("n", 6, 2, 5)
