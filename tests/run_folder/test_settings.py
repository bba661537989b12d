"""The settings of a run: presets, and the model they describe."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config
from mlx_tinylm.model_folder.config_json import model_config_from_json, model_config_to_json
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes
from mlx_tinylm.run_folder.presets import PRESETS, preset, settings_that_differ
from mlx_tinylm.run_folder.settings import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 1001}, "layers must be a whole number from 1 to 1,000, not 1001"),
        ({"context": 1}, "context must be a whole number from 2 to 10,000,000, not 1"),
        ({"dropout": 1}, "dropout must be a number at least 0 and at most 0.95, not 1"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, not 0"),
        ({"steps": 10**9 + 1}, "steps must be a whole number from 1 to 1,000,000,000, not 1000000001"),
        ({"seed": 2**31}, "seed must be a whole number from 0 to 2,147,483,647, not 2147483648"),
        ({"family": "llama"}, "family must be one of gpt2, qwen3; not 'llama'"),
        ({"eval_every": None}, "eval_every must be a whole number from 1 to 10,000,000, not None"),
    ],
)
def test_limits(settings: dict[str, Any], message: str) -> None:
    """A setting that cannot be is refused by its name and limits."""
    with pytest.raises(TinyLMError) as error:
        TrainConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    """Each preset describes a model, survives the way through train.json, and can be changed."""
    config = preset(name)
    assert config.model_config(66, 65).vocab_size == 66
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert preset(name, steps=3, patience=None) == dataclasses.replace(config, steps=3, patience=None)


@pytest.mark.parametrize(
    ("name", "model", "training", "optimizer"),
    [
        ("tiny", ("qwen3", 8, 4, 160, 256), (16, 1000, 0.0), ("muon", 3e-3, 0.8, 0.95, 0.0, 0.03, 0.1, "linear", None)),
        ("best", ("qwen3", 8, 4, 160, 256), (16, 1500, 0.0), ("muon", 3e-3, 0.8, 0.95, 0.0, 0.03, 0.3, "linear", None)),
        ("baby", ("gpt2", 6, 6, 384, 256), (64, 5000, 0.2), ("adamw", 1e-3, 0.9, 0.99, 0.1, 0.02, 0.1, "cosine", 1.0)),
        (
            *("seed", ("gpt2", 3, 4, 256, 256), (16, 5000, 0.2)),
            ("adamw", 3e-4, 0.9, 0.999, 0.01, 0.02, 0.1, "constant", None),
        ),
        ("nano", ("gpt2", 2, 4, 128, 64), (16, 600, 0.0), ("adamw", 3e-3, 0.9, 0.95, 0.1, 0.02, 0.1, "cosine", 1.0)),
    ],
)
def test_what_the_presets_are(name: str, model: Any, training: Any, optimizer: Any) -> None:
    """The presets compute what they always did; the defaults of TrainConfig are those of `tiny`."""
    c = preset(name)
    assert (c.family, c.layers, c.heads, c.width, c.context) == model
    assert (c.batch_size, c.steps, c.dropout) == training
    decays = (c.beta1, c.beta2, c.weight_decay, c.muon_learning_rate, c.muon_weight_decay)
    assert (c.optimizer, c.learning_rate, *decays, c.schedule, c.grad_clip) == optimizer
    assert preset("tiny") == TrainConfig()


def test_small_presets_are_small() -> None:
    """What `tiny` and `best` reach is reached with 2.5 million parameters."""
    for name in ("tiny", "best"):
        assert count_parameters(preset(name).model_config(66, 65)) <= 2_500_000


def test_unknown_preset() -> None:
    """A preset that is none is answered with those there are."""
    with pytest.raises(TinyLMError, match="no preset 'huge'; there are tiny, best, baby, seed, nano"):
        preset("huge")


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
    assert model_config_from_json(model_config_to_json(config)) == config


@pytest.mark.parametrize("width", [16, 128, 160, 256, 384])
def test_both_families_have_mlps_of_one_size(width: int) -> None:
    """Qwen3's three MLP matrices have about as many numbers as GPT-2's two, in multiples of 32."""
    shapes = tensor_shapes(TrainConfig(family="qwen3", width=width, heads=1).model_config(66, 65))
    hidden = shapes["model.layers.0.mlp.gate_proj.weight"][0]
    assert hidden % 32 == 0
    assert abs(3 * hidden - 8 * width) <= 3 * 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "gpt2", "width": 256, "heads": 3}, "width 256 does not divide into 3 heads; choose a multiple"),
        ({"family": "qwen3", "width": 256, "heads": 3}, "width 256 does not divide into 3 heads; choose a multiple"),
        ({"family": "qwen3", "width": 15, "heads": 3}, "RoPE turns pairs: head_dim must be even, not 5"),
    ],
)
def test_heads_that_do_not_divide(settings: dict[str, Any], message: str) -> None:
    """Heads must divide the width, and into pairs for RoPE; the message has the numbers."""
    with pytest.raises(TinyLMError, match=message):
        TrainConfig(**settings).model_config(66, 65)


def test_settings_that_differ() -> None:
    """What every preset has in common is not among them, all else is."""
    names = settings_that_differ()
    assert {"layers", "steps", "grad_clip"} <= set(names)
    assert not {"ema", "patience", "grad_accumulation_steps"} & set(names)
    assert names == [name for name in PRESETS["tiny"].to_json() if name in names]
