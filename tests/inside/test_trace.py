"""A trace is what the fast forward pass computes, on both back ends, with what that throws away."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder
from tiny_models import BOTH, GPT2, QWEN3, every_family

from mlx_tinylm.backend.choose import LanguageModel, load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.trace import embeddings, readouts, trace
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import open_folder

BACKENDS = ["mlx", "numpy"]
UNTIED = [dataclasses.replace(config, tied=False) for config in BOTH]
GROUPED = dataclasses.replace(QWEN3, heads=6, kv_heads=2)  # three heads in turn share keys and values
IDS = [3, 0, 7, 7, 11, 2, 9, 1]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def loaded(folder: Path, config: ModelConfig, backend: str) -> LanguageModel:
    return load(random_folder(folder, config), backend)[0]


@every_backend
@pytest.mark.parametrize("config", [*BOTH, *UNTIED, GROUPED], ids=lambda c: f"{c.family} {c.heads} {c.tied}")
@pytest.mark.parametrize("T", [1, 2, 8])
def test_the_logits_are_those_of_the_fast_forward_pass(
    config: ModelConfig, backend: str, T: int, tmp_path: Path
) -> None:
    """A trace ends in the logits that the model gives, at one id, two, and the whole context."""
    model = loaded(tmp_path, config, backend)
    expected = model.logits(np.array([IDS[:T]]))[0]
    assert expected.std() > 0.1
    found = trace(model, IDS[:T])
    np.testing.assert_allclose(found.logits, expected, atol=2e-5)
    assert found.ids.tolist() == IDS[:T]
    assert found.attention.shape == (config.layers, config.heads, T, T)
    assert found.stream.shape == (1 + 2 * config.layers, T, config.width)
    assert {found.logits.dtype, found.attention.dtype, found.stream.dtype} == {np.dtype(np.float32)}


@every_backend
def test_the_shipped_model(backend: str) -> None:
    """A trace of a whole context of the model that ships ends in its logits."""
    from mlx_tinylm.model_folder.folder import shipped_weights

    model, tokenizer = load(shipped_weights(), backend)
    ids = tokenizer.encode("ROMEO:\nWhat light through yonder window breaks?\n" * 5)[:240]
    np.testing.assert_allclose(trace(model, ids).logits, model.logits(np.array([ids]))[0], atol=1e-4)


@every_family
def test_both_back_ends_trace_the_same(config: ModelConfig, tmp_path: Path) -> None:
    """Attention and the stream at every stage are the same on MLX and NumPy, which share no code."""
    mlx, numpy = (trace(loaded(tmp_path / name, config, name), IDS) for name in BACKENDS)
    np.testing.assert_allclose(mlx.attention, numpy.attention, atol=1e-5)
    np.testing.assert_allclose(mlx.stream, numpy.stream, atol=2e-5)


@every_backend
@every_family
def test_weights_spread_over_the_past(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """Each row of attention adds up to 1, and nothing looks at the future."""
    attention = trace(loaded(tmp_path, config, backend), IDS).attention
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
    assert (attention[:, :, ~np.tri(len(IDS), dtype=bool)] == 0).all()
    assert attention.min() >= 0


@every_backend
@every_family
def test_what_is_read_out_last_is_what_the_model_says(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """A lens has a readout for each stage, and the last one is the logits."""
    model = loaded(tmp_path, config, backend)
    found = trace(model, IDS)
    stages = list(readouts(model, found))
    assert len(stages) == 1 + 2 * config.layers
    np.testing.assert_allclose(stages[-1], found.logits, atol=1e-6)
    assert all(abs(stage - found.logits).max() > 0.1 for stage in stages[:-1])


@every_backend
@every_family
def test_the_final_norm_is_computed_anew_for_each_stage(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """A stage reads as the norm of its own stream times the output matrix, written here by its definition."""
    folder = random_folder(tmp_path, config)
    model, tensors = load(folder, backend)[0], open_folder(folder).tensors()
    found = trace(model, IDS)
    gpt2 = config.family == "gpt2"
    table = tensors["wte.weight" if gpt2 else "model.embed_tokens.weight"]
    for x, readout in zip(found.stream.astype(np.float64), readouts(model, found), strict=True):
        centred = x - x.mean(-1, keepdims=True) if gpt2 else x
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps)
        normed = normed * tensors["ln_f.weight" if gpt2 else "model.norm.weight"] + (
            tensors["ln_f.bias"] if gpt2 else 0
        )
        np.testing.assert_allclose(readout, normed @ table.T, atol=1e-4)
    np.testing.assert_allclose(embeddings(model), table)
    first = table[IDS] + (tensors["wpe.weight"][: len(IDS)] if gpt2 else 0)
    np.testing.assert_allclose(found.stream[0], first, atol=1e-6)


@every_backend
@every_family
def test_a_head_that_is_off_brings_nothing(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """Without all its heads a layer's attention adds nothing but a bias; what one head brings is a part of it."""
    model = loaded(tmp_path, config, backend)
    plain = trace(model, IDS)
    silent = trace(model, IDS, [(1, head) for head in range(config.heads)])
    added = silent.stream[3] - silent.stream[2]
    assert abs(added - added[0]).max() < 1e-6  # the same at each position
    if config.family == "qwen3":
        assert abs(added).max() == 0
    one, other = (trace(model, IDS, [(1, head)]).stream[3] for head in (0, 1))
    bias = added
    np.testing.assert_allclose(one + other - 2 * plain.stream[2] - bias, plain.stream[3] - plain.stream[2], atol=1e-5)
    np.testing.assert_array_equal(silent.stream[:3], plain.stream[:3])  # what comes before is untouched
    np.testing.assert_array_equal(silent.attention[1], plain.attention[1])  # where it looks does not change
    assert abs(silent.logits - plain.logits).max() > 0.01


@every_backend
def test_a_head_is_off_as_if_its_part_of_the_matrix_were_zero(backend: str, tmp_path: Path) -> None:
    """Switching off a head gives the very logits of a model whose output matrix has zeros for that head."""
    from mlx_tinylm.model_folder.tensor_files import write_tensors

    for config in BOTH:
        folder = random_folder(tmp_path / config.family, config)
        found = trace(load(folder, backend)[0], IDS, [(0, 1)]).logits
        tensors = {name: tensor.copy() for name, tensor in open_folder(folder).tensors().items()}
        if config.family == "gpt2":  # stored (in, out)
            tensors["h.0.attn.c_proj.weight"][config.head_dim : 2 * config.head_dim] = 0
        else:
            tensors["model.layers.0.self_attn.o_proj.weight"][:, config.head_dim : 2 * config.head_dim] = 0
        write_tensors(folder / "model.safetensors", tensors)
        np.testing.assert_allclose(found, load(folder, backend)[0].logits(np.array([IDS]))[0], atol=2e-5)


@every_backend
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_a_quantised_model(family: str, backend: str, tmp_path: Path) -> None:
    """A model whose matrices are packed is traced, too."""
    config = dataclasses.replace({"gpt2": GPT2, "qwen3": QWEN3}[family], width=64, quantization=Quantization(4, 32))
    model = loaded(tmp_path, config, backend)
    expected = model.logits(np.array([IDS]))[0]
    np.testing.assert_allclose(trace(model, IDS).logits, expected, atol=1e-4)
    assert embeddings(model).shape == (13, 64)


@pytest.mark.parametrize(
    ("ids", "off", "message"),
    [
        ([], [], "there is nothing to read"),
        ([0, 13], [], "id 13 is outside the vocabulary of 13"),
        ([-1], [], "id -1 is outside"),
        ([1] * 9, [], "9 ids are more than the model's context of 8"),
        ([1], [(2, 0)], "no head 0 in layer 2"),
        ([1], [(0, 2)], "no head 2 in layer 0"),
        ([1], [(-1, 0)], "no head 0 in layer -1"),
    ],
)
@every_backend
def test_what_cannot_be_read_is_refused(
    backend: str, ids: list[int], off: list[tuple[int, int]], message: str, tmp_path: Path
) -> None:
    """No ids, too many, ids that are none and heads that are not there end in one line."""
    with pytest.raises(TinyLMError, match=message):
        trace(loaded(tmp_path, QWEN3, backend), ids, off)
