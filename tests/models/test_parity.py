"""MLX against NumPy: the same folder gives the same logits and, from the same seed, the same text.

Both sums run in float32 in another order, so logits of size 1 to 5 differ by about 1e-5. A wrong eps, GELU,
scale or position shows at 1e-3 and above. That NumPy's side is another program is shown by tests/test_house.py,
where it computes in a process without MLX.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.utils
import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.backend.choose import LanguageModel, load
from mlx_tinylm.generation import generate, stream_generate
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.model_folder.quantization import dequantised
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.models.build import build
from mlx_tinylm.sample_config import SampleConfig

TOLERANCE = 5e-5

GPT2 = GPT2Config(vocab_size=67, context=256, width=60, layers=3, heads=5)
QWEN3 = Qwen3Config(vocab_size=67, context=256, width=60, layers=3, heads=6, kv_heads=2, head_dim=14, hidden=101)
CONFIGS: dict[str, ModelConfig] = {
    "gpt2": GPT2,
    "gpt2-untied": replace(GPT2, tied=False, norm_eps=1e-3),
    "qwen3": QWEN3,
    "qwen3-untied": replace(QWEN3, tied=False, norm_eps=1e-3, rope_theta=1e6, kv_heads=6),
    "gpt2-4bit": replace(GPT2, width=64, heads=4, quantization=Quantization(4, 64)),
    "gpt2-8bit-untied": replace(GPT2, width=64, heads=4, tied=False, quantization=Quantization(8, 32)),
    "qwen3-4bit": replace(QWEN3, width=64, head_dim=32, hidden=96, quantization=Quantization(4, 32)),
    "qwen3-8bit-untied": replace(
        QWEN3, width=128, head_dim=64, hidden=256, tied=False, quantization=Quantization(8, 128)
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
each_family = pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
Pair = tuple[LanguageModel, LanguageModel]


@pytest.fixture
def both(tmp_path: Path, config: ModelConfig) -> Pair:
    """One folder of random weights, opened on both back ends."""
    return opened_twice(random_folder(tmp_path / "random", config))


def opened_twice(folder: Path) -> Pair:
    mlx_side, numpy_side = (load(folder, backend)[0] for backend in ("mlx", "numpy"))
    assert (mlx_side.backend, numpy_side.backend) == ("mlx", "numpy")
    assert isinstance(mlx_side.next_logits([0], mlx_side.new_cache(1)), mx.array)
    assert isinstance(numpy_side.next_logits([0], numpy_side.new_cache(1)), np.ndarray)
    return mlx_side, numpy_side


def some_ids(config: ModelConfig, *shape: int) -> npt.NDArray[Any]:
    return np.random.default_rng(1).integers(0, config.vocab_size, shape)


def check_close(mlx_logits: Any, numpy_logits: npt.NDArray[Any], case: object = "") -> None:
    expected = np.asarray(mlx_logits)
    assert expected.dtype == numpy_logits.dtype == np.float32
    assert expected.std() > 0.1  # logits that say nothing would agree about anything
    np.testing.assert_allclose(numpy_logits, expected, atol=TOLERANCE, rtol=0, err_msg=str(case))


@every_config
def test_full_forward(both: Pair, config: ModelConfig) -> None:
    """The full forward pass and its losses agree at one id, two, one less than the context, and the context."""
    mlx_side, numpy_side = both
    for T in (1, 2, config.context - 1, config.context):
        ids = some_ids(config, 2, T + 1)
        check_close(mlx_side.logits(ids[:, 1:]), numpy_side.logits(ids[:, 1:]), T)
        check_close(mlx_side.losses(ids[:, :-1], ids[:, 1:]), numpy_side.losses(ids[:, :-1], ids[:, 1:]), T)


@every_config
def test_cached_steps(both: Pair, config: ModelConfig) -> None:
    """A prompt, then one id a step up to the context, agree; qwen3 goes on past it, sliding in the cache."""
    ids = some_ids(config, 2 * config.context).tolist()
    last = config.context + 10 if config.family == "qwen3" else config.context
    prompt = config.context - 10
    caches = [model.new_cache(config.context) for model in both]
    check_close(*(model.next_logits(ids[:prompt], cache) for model, cache in zip(both, caches, strict=True)))
    for step in range(prompt, last):
        check_close(*(model.next_logits([ids[step]], cache) for model, cache in zip(both, caches, strict=True)), step)


@pytest.mark.parametrize("config", [replace(QWEN3, context=7, layers=2)], ids=["context 7"])
def test_sliding_many_times_round(both: Pair, config: ModelConfig) -> None:
    """At positions thirty times the context, both caches still hold the same last ids."""
    caches = [model.new_cache(7) for model in both]
    for step, id in enumerate(some_ids(config, 210).tolist()):
        check_close(*(model.next_logits([id], cache) for model, cache in zip(both, caches, strict=True)), step)


@each_family
def test_cached_equals_full_across_back_ends(both: Pair, config: ModelConfig) -> None:
    """One id a step on MLX equals the full forward pass on NumPy, and the reverse."""
    ids = some_ids(config, 1, 40)
    mlx_full, numpy_full = (model.logits(ids)[0] for model in both)
    caches = [model.new_cache(40) for model in both]
    for step, id in enumerate(ids[0].tolist()):
        mlx_step, numpy_step = (model.next_logits([id], cache) for model, cache in zip(both, caches, strict=True))
        check_close(mlx_step, numpy_full[step], step)
        check_close(mlx_full[step], numpy_step, step)


@st.composite
def odd_configs(draw: st.DrawFn) -> ModelConfig:
    """Small shapes that share no factor on purpose.

    No width below 8 and no head size below 4: where a norm's few numbers all happen to be near 0, it makes
    rounding a thousand times larger, and either back end is as far from the exact answer as from the other.
    """
    shared: dict[str, Any] = {
        "vocab_size": draw(st.integers(2, 40)),
        "context": draw(st.integers(1, 20)),
        "layers": draw(st.integers(1, 3)),
        "tied": draw(st.booleans()),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-5, 1e-2])),
    }
    heads = draw(st.integers(1, 3))
    if draw(st.booleans()):
        return GPT2Config(width=heads * draw(st.integers(-(-8 // heads), 11)), heads=heads, **shared)
    return Qwen3Config(
        width=draw(st.integers(8, 31)),
        heads=heads * draw(st.integers(1, 3)),
        kv_heads=heads,
        head_dim=2 * draw(st.integers(2, 9)),
        hidden=draw(st.integers(1, 50)),
        rope_theta=draw(st.sampled_from([100.0, 10_000.0, 5e5])),
        **shared,
    )


@settings(max_examples=40, deadline=None)
@given(odd_configs())
def test_odd_shapes(config: ModelConfig) -> None:
    """Whatever the shape, the two back ends agree on the full forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        mlx_side, numpy_side = opened_twice(random_folder(Path(folder), config))
    ids = some_ids(config, 2, config.context)
    np.testing.assert_allclose(numpy_side.logits(ids), mlx_side.logits(ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_dequantised_undoes_what_mlx_did(bits: int, group: int) -> None:
    """MLX's own quantised tensors come back as MLX itself gives them back."""
    matrix = mx.array(np.random.default_rng(0).standard_normal((5, 256), dtype=np.float32))
    parts = mx.quantize(matrix, group_size=group, bits=bits)
    stored = {f"m.{name}": np.array(part) for name, part in zip(("weight", "scales", "biases"), parts, strict=True)}
    expected = mx.dequantize(*parts, group_size=group, bits=bits)
    ours = dequantised(stored, Quantization(bits, group))
    assert ours.keys() == {"m.weight"}
    np.testing.assert_allclose(ours["m.weight"], np.array(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["gpt2-4bit", "qwen3-8bit-untied"])
def test_a_model_that_mlx_quantised(name: str, tmp_path: Path) -> None:
    """A folder with the tensors `nn.quantize` makes opens on both back ends with the same logits."""
    config = CONFIGS[name]
    assert config.quantization is not None
    mx.random.seed(0)
    module = build(replace(config, quantization=None))
    nn.quantize(module, group_size=config.quantization.group_size, bits=config.quantization.bits)
    folder = random_folder(tmp_path / "quantised", config)
    parameters = dict(mlx.utils.tree_flatten(module.parameters()))
    write_tensors(folder / "model.safetensors", {key: np.array(value) for key, value in parameters.items()})
    ids = some_ids(config, 2, 30)
    check_close(*(model.logits(ids) for model in opened_twice(folder)))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "config", [replace(each, context=100, layers=2) for each in (GPT2, QWEN3)], ids=lambda c: c.family
)
def test_same_seed_same_text(both: Pair, temperature: float, tmp_path: Path) -> None:
    """The same seed writes the same 300 characters on both back ends, three contexts long."""
    _, tokenizer = load(tmp_path / "random", "numpy")
    settings = SampleConfig(max_tokens=320, temperature=temperature, seed=7)
    streamed, text = ("".join(stream_generate(model, tokenizer, "TO BE", settings)) for model in both)
    assert len(text) >= 300
    assert streamed == text
    if temperature:
        assert generate(both[1], tokenizer, "TO BE", replace(settings, seed=8)) != text


@each_family
def test_mlx_refuses_positions_past_the_end(both: Pair, config: ModelConfig) -> None:
    """MLX would read garbage past a table's end: gpt2 and the cache refuse, and the cache stays usable."""
    model, _ = both
    if config.family == "gpt2":
        end = config.context
        cache = model.new_cache(end)
        model.next_logits([1] * end, cache)
        with pytest.raises(ValueError, match="positions end at"):
            model.next_logits([1], cache)
        with pytest.raises(ValueError, match="positions end at"):
            model.logits(np.ones((1, end + 1), np.int32))
    cache = model.new_cache(4)
    model.next_logits([1, 2, 3], cache)
    with pytest.raises(ValueError, match="2 positions do not fit at 3 of 4"):
        model.next_logits([4, 5], cache)
    check_close(model.next_logits([4], cache), model.logits(np.array([[1, 2, 3, 4]]))[0, -1])
