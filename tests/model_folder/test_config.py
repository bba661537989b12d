"""What a model is: each size that is none, and each that does not fit another, is refused by name."""

from __future__ import annotations

import dataclasses
import math

import pytest
from tiny_models import GPT2, QWEN3, every_family

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import ModelConfig, Quantization

SIZES = {"vocab_size", "context", "width", "layers", "heads", "kv_heads", "head_dim", "hidden"}


def refused(config: ModelConfig, **changes: object) -> str:
    with pytest.raises(TinyLMError) as error:
        dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    return str(error.value)


@every_family
@pytest.mark.parametrize("value", [0, -1, 10**400, 3.0, math.nan, "4", True, None, [4], {}], ids=lambda v: repr(v)[:20])
def test_sizes_that_are_none(config: ModelConfig, value: object) -> None:
    """No size may be zero, absurdly large, broken, text, true, a list or nothing."""
    for field in dataclasses.fields(config):
        if field.name in SIZES:
            largest = "1,000" if field.name == "layers" else "10,000,000"
            expected = f"{field.name} must be a whole number from 1 to {largest}, not "
            assert refused(config, **{field.name: value}).startswith(expected)


@every_family
@pytest.mark.parametrize("value", [0, -1e-5, 2, 10**400, math.nan, math.inf, "1e-5", True, None, [1e-5], {}])
def test_numbers_that_are_none(config: ModelConfig, value: object) -> None:
    """The norm's epsilon is a finite number above 0, and so is RoPE's base."""
    assert refused(config, norm_eps=value).startswith("norm_eps must be a number at least 1e-12 and at most 1, not ")
    if config == QWEN3 and value != 2:
        assert refused(config, rope_theta=value).startswith("rope_theta must be a number above 0, not ")


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        (GPT2, {"heads": 3}, "width 16 does not divide into 3 heads; choose a multiple"),
        (QWEN3, {"heads": 6, "kv_heads": 4}, "6 heads cannot share 4 key-value heads evenly; choose a divisor"),
        (QWEN3, {"head_dim": 7}, "RoPE turns pairs: head_dim must be even, not 7"),
        (GPT2, {"tied": 1}, "tie_word_embeddings must be true or false, not 1"),
        (GPT2, {"eos_ids": (1, -2)}, "eos_token_id must be a whole number from 0 to 10,000,000, not -2"),
        (GPT2, {"suppressed": (13,)}, "an id of suppress_tokens must be a whole number from 0 to 12, not 13"),
        (QWEN3, {"suppressed": (0, -1)}, "an id of suppress_tokens must be a whole number from 0 to 12, not -1"),
        (
            QWEN3,
            {"suppressed": (*range(13),)},
            "suppress_tokens names every id, which leaves none to write; leave it out",
        ),
        (QWEN3, {"eos_ids": ({"a": 1},)}, "eos_token_id must be a whole number from 0 to 10,000,000, not {'a': 1}"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit(config: ModelConfig, changes: dict[str, object], expected: str) -> None:
    """Sizes that do not divide, and what is no truth and no id, are refused with what would do."""
    assert refused(config, **changes) == expected


def test_quantization() -> None:
    """There are 2 to 6 and 8 bits, in groups of 32, 64 or 128; a number that only equals one of them is none."""
    for bits in (1, 7, 4.0, True, [4], None):
        with pytest.raises(TinyLMError, match=r"^quantization bits must be one of 2, 3, 4, 5, 6, 8, not "):
            Quantization(bits, 64)  # type: ignore[arg-type]
    for group_size in (1, 64.0, "64", None):
        with pytest.raises(TinyLMError, match=r"^quantization group_size must be one of 32, 64, 128, not "):
            Quantization(4, group_size)  # type: ignore[arg-type]


def test_configs_are_frozen() -> None:
    """No size changes after it has been checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2.width = 0  # type: ignore[misc]
