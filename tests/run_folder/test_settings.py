"""The settings of a run: limits, presets, and the model they describe."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config, model_config_from_json
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes
from mlx_tinylm.run_folder.presets import DEFAULT_PRESET, PRESETS, preset
from mlx_tinylm.run_folder.settings import TrainConfig, is_optional

FIELDS = {item.name: item for item in dataclasses.fields(TrainConfig)}
NUMBERS = [name for name, item in FIELDS.items() if "choices" not in item.metadata]
CHOICES = [name for name, item in FIELDS.items() if "choices" in item.metadata]


def refused(**changes: Any) -> str:
    with pytest.raises(TinyLMError) as error:
        TrainConfig(**changes)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 300
    return message


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_its_words_and_limits(name: str) -> None:
    """Each field carries a help text that is a sentence, and either its choices or its lowest value."""
    metadata = FIELDS[name].metadata
    assert metadata["help"].endswith(".")
    assert ("choices" in metadata) != ("low" in metadata)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 10**400, "1", True, [1], {}], ids=lambda v: repr(v)[:20])
def test_no_number_may_be_nonsense(name: str, value: object) -> None:
    """A negative, infinite, endless or wrongly typed value of any number is refused by the setting's name."""
    assert refused(**{name: value}).startswith(f"{name} must be a ")


@pytest.mark.parametrize("name", NUMBERS)
def test_limits_of_numbers(name: str) -> None:
    """The ends of each range are allowed (the lower one unless it must be exceeded), what lies beyond is not."""
    metadata = FIELDS[name].metadata
    low, high = metadata["low"], metadata.get("high")
    whole = isinstance(low, int)
    beyond = 1 if whole else 1e-3
    if metadata.get("above"):
        refused(**{name: low})
        TrainConfig(**{name: low + 1e-9})
    else:
        TrainConfig(**{name: low})
    refused(**{name: low - beyond})
    if high is not None:
        TrainConfig(**{name: high})
        refused(**{name: high + beyond})
    if whole:
        refused(**{name: low + 1.0})


@pytest.mark.parametrize("name", NUMBERS)
def test_none_means_off_where_something_can_be_off(name: str) -> None:
    """None is taken by the optional settings and by no other."""
    if is_optional(FIELDS[name]):
        assert getattr(TrainConfig(**{name: None}), name) is None
    else:
        refused(**{name: None})


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "GPT2", None, 1, ["gpt2"], "x" * 5000])
def test_choices(name: str, value: object) -> None:
    """Each of the choices is taken; anything else is refused with their list."""
    choices = FIELDS[name].metadata["choices"]
    for choice in choices:
        TrainConfig(**{name: choice})
    assert refused(**{name: value}).startswith(f"{name} must be one of {', '.join(choices)}; not ")


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    """Each preset describes a model, and survives the way through train.json."""
    config = PRESETS[name]
    assert config.model_config(66, 65).vocab_size == 66
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert preset(name) == config
    assert preset(name, steps=3, patience=None) == dataclasses.replace(config, steps=3, patience=None)


def test_the_article_s_run() -> None:
    """The preset `seed` is the run of the article this program grew from."""
    seed = PRESETS["seed"]
    assert (seed.family, seed.layers, seed.heads, seed.width, seed.context) == ("gpt2", 3, 4, 256, 256)
    assert (seed.batch_size, seed.steps, seed.optimizer, seed.learning_rate) == (16, 5000, "adamw", 3e-4)
    assert (seed.schedule, seed.warmup_steps, seed.dropout) == ("constant", 0, 0.2)


@pytest.mark.parametrize(("name", "steps"), [("tiny", 1000), ("best", 5000)])
def test_small_presets_are_small(name: str, steps: int) -> None:
    """What these two reach is reached with 2.5 million parameters and steps of 16 windows of 256."""
    config = PRESETS[name]
    assert count_parameters(config.model_config(66, 65)) <= 2_500_000
    assert config.steps <= steps
    assert (config.batch_size, config.grad_accumulation_steps, config.context) == (16, 1, 256)
    assert config.width % 32 == 0


def test_unknown_preset() -> None:
    """A preset that is none is answered with those there are, and the default is one of them."""
    with pytest.raises(TinyLMError, match=f"no preset 'huge'; there are {', '.join(PRESETS)}"):
        preset("huge")
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
@pytest.mark.parametrize(("width", "heads"), [(16, 1), (48, 3), (256, 4)])
def test_model_config(family: str, width: int, heads: int) -> None:
    """The model has the asked shape, the end-of-text id, and opens again from its config.json."""
    config = TrainConfig(family=family, width=width, heads=heads, layers=2, context=8).model_config(66, 65)
    assert isinstance(config, GPT2Config if family == "gpt2" else Qwen3Config)
    assert (config.vocab_size, config.context, config.width, config.layers, config.heads) == (66, 8, width, 2, heads)
    assert config.head_dim == width // heads
    assert config.eos_ids == (65,)
    assert config.tied
    assert model_config_from_json(config.to_json()) == config


@pytest.mark.parametrize("width", [16, 128, 160, 256, 384])
def test_both_families_have_mlps_of_one_size(width: int) -> None:
    """Qwen3's three MLP matrices have about as many numbers as GPT-2's two, in multiples of 32."""
    shapes = tensor_shapes(TrainConfig(family="qwen3", width=width, heads=1).model_config(66, 65))
    hidden = shapes["model.layers.0.mlp.gate_proj.weight"][0]
    assert hidden % 32 == 0
    assert abs(3 * hidden - 8 * width) <= 3 * 16


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_heads_that_do_not_divide(family: str) -> None:
    """Heads must divide the width in either family, and the message has both numbers."""
    with pytest.raises(TinyLMError, match="width 256 does not divide into 3 heads; choose a multiple"):
        TrainConfig(family=family, heads=3).model_config(66, 65)


def test_odd_heads_for_rope() -> None:
    """A head size that RoPE cannot turn is refused when the model is described."""
    with pytest.raises(TinyLMError, match="RoPE turns pairs: head_dim must be even, not 5"):
        TrainConfig(family="qwen3", width=15, heads=3).model_config(66, 65)


def test_settings_read_back_must_be_all_and_no_more() -> None:
    """A settings file with a key missing or added is refused by that key's name."""
    settings = TrainConfig().to_json()
    assert TrainConfig.from_json(settings) == TrainConfig()
    with pytest.raises(TinyLMError, match=r"unknown or missing settings: momentum$"):
        TrainConfig.from_json(settings | {"momentum": 0.9})
    del settings["steps"]
    with pytest.raises(TinyLMError, match=r"unknown or missing settings: steps$"):
        TrainConfig.from_json(settings)
    for raw in (None, [], "steps", 3):
        with pytest.raises(TinyLMError, match="the settings are not a JSON object"):
            TrainConfig.from_json(raw)


def test_settings_are_frozen() -> None:
    """No setting changes after it has been checked."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 0  # type: ignore[misc]
