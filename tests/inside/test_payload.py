"""The payload: the same numbers as bytes, as JSON and in memory, and what is in it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder
from tiny_models import BOTH, GPT2, QWEN3, every_family

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.counter import Counter
from mlx_tinylm.inside.payload import Payload, measured, square, triangle
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.inside.trace import trace
from mlx_tinylm.model_folder.config import ModelConfig

IDS = [3, 0, 7, 7, 11, 2, 9, 1]


def subject(folder: Path, config: ModelConfig = QWEN3, backend: str = "numpy") -> Subject:
    return Subject.open(random_folder(folder, config), backend)


@pytest.mark.parametrize("backend", ["mlx", "numpy"])
@every_family
def test_what_is_in_it(config: ModelConfig, backend: str, tmp_path: Path) -> None:
    """Each tensor has the type and shape that the module says, and no others are there."""
    payload = subject(tmp_path, config, backend).look(IDS)
    T, V, L, H = len(IDS), 13, config.layers, config.heads
    S = 1 + 2 * L
    assert {name: (str(each.dtype), each.shape) for name, each in payload.tensors.items()} == {
        "ids": ("int32", (T,)),
        "logits": ("float32", (T, V)),
        "surprise": ("float32", (T,)),
        "attention": ("uint8", (L, H, T * (T + 1) // 2)),
        "lens_rank": ("int32", (S, T)),
        "lens_top": ("int32", (S, T, 5)),
        "lens_top_p": ("float32", (S, T, 5)),
        "lens_ranks": ("uint8", (S, T, V)),
        "head_scores": ("float32", (L, H, 4)),
        "head_even": ("float32", (4,)),
    }
    assert payload.meta["model"]["backend"] == backend
    assert payload.meta["prompt"] == "".join(payload.texts) == "# ''+\")!"
    assert payload.meta["vocabulary"] == [*" !\"#$%&'()*+", "<|endoftext|>"]


def test_bytes_and_json_say_the_same(tmp_path: Path) -> None:
    """What was written as bytes is read as it was; as JSON each float32 is itself again, NaN is null."""
    payload = subject(tmp_path).look(IDS, [(1, 0)])
    again = Payload.from_bytes(payload.to_bytes())
    said = json.loads(json.dumps(payload.to_json(), allow_nan=False))
    assert again.meta == payload.meta == {name: said[name] for name in payload.meta}
    assert payload.meta["heads_off"] == [[1, 0]]
    assert again.tensors.keys() == payload.tensors.keys() == said["tensors"].keys()
    for name, tensor in payload.tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(again.tensors[name], tensor)
        np.testing.assert_array_equal(np.array(said["tensors"][name], float).astype(tensor.dtype), tensor)
    assert said["tensors"]["surprise"][0] is None


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    """The same look gives the same bytes, each tensor at a multiple of the width of its numbers."""
    model = subject(tmp_path)
    content = model.look(IDS).to_bytes()
    assert all(model.look(IDS).to_bytes() == content for _ in range(5))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    width = {"F32": 4, "I32": 4, "U8": 1}
    places = [start + each["data_offsets"][0] for name, each in header.items() if name != "__metadata__"]
    kinds = [each["dtype"] for name, each in header.items() if name != "__metadata__"]
    assert all(place % width[kind] == 0 for place, kind in zip(places, kinds, strict=True))
    assert start % 8 == 0


def test_any_reader_of_safetensors_reads_it(tmp_path: Path) -> None:
    """The bytes are a safetensors file whose metadata holds the version and the object."""
    from safetensors import safe_open

    (tmp_path / "payload.safetensors").write_bytes(subject(tmp_path / "model").look(IDS).to_bytes())
    with safe_open(tmp_path / "payload.safetensors", "np") as file:
        metadata = file.metadata()
        assert metadata["mlx_tinylm"] == "1"
        assert json.loads(metadata["json"])["version"] == 1
        assert file.get_tensor("ids").tolist() == IDS


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"\x02\0\0\0\0\0\0\0{}"])
def test_something_else_is_refused(content: bytes) -> None:
    """Bytes that are no payload end in one line."""
    with pytest.raises(TinyLMError, match="no payload of this program, or a damaged one"):
        Payload.from_bytes(content)


def test_another_version_is_refused(tmp_path: Path) -> None:
    """A payload of a later version says so."""
    content = subject(tmp_path).look([1]).to_bytes().replace(b'"mlx_tinylm":"1"', b'"mlx_tinylm":"2"')
    with pytest.raises(TinyLMError, match="of version 2; this program reads 1"):
        Payload.from_bytes(content)


def test_the_triangle(tmp_path: Path) -> None:
    """Row after row of the lower triangle, a 255th each: place (t, s) is t (t + 1) / 2 + s."""
    attention = trace(subject(tmp_path, GPT2).model, IDS).attention
    packed = triangle(attention)
    for t, s in [(0, 0), (1, 0), (5, 2), (7, 7)]:
        assert packed[1, 0, t * (t + 1) // 2 + s] == round(float(attention[1, 0, t, s]) * 255)
    assert abs(square(packed) - attention).max() <= 0.5 / 255 + 1e-6
    assert square(triangle(np.ones((1, 1, 1, 1), np.float32))).tolist() == [[[[1.0]]]]


def test_the_counter_beside_it(tmp_path: Path) -> None:
    """A counter's probabilities are there where a counter is given."""
    model = subject(tmp_path)
    counter = Counter.of(np.array(IDS * 4), 13)
    payload = measured(model.model, IDS, prompt="", vocabulary=model.vocabulary, facts=model.facts, counter=counter)
    np.testing.assert_array_equal(payload.tensors["counter"], counter.probabilities(IDS))
    assert "counter" not in model.look(IDS).tensors


@pytest.mark.parametrize("config", BOTH, ids=lambda config: config.family)
def test_one_id(config: ModelConfig, tmp_path: Path) -> None:
    """A single id has no surprise, no head with a name, and all the rest."""
    payload = Payload.from_bytes(subject(tmp_path, config).look([4]).to_bytes())
    assert math.isnan(payload.tensors["surprise"][0])
    assert payload.meta["heads"] == []
    assert payload.tensors["lens_rank"].tolist() == [[-1]] * 5
    assert payload.tensors["attention"].tolist() == [[[255], [255]]] * 2
