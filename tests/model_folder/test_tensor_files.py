"""Safetensors files as we write them, to the byte, and as the safetensors package reads them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.tensor_files import FLOATS, Tensors, read_safetensors, write_tensors


def test_the_bytes(tmp_path: Path) -> None:
    """Length in 8 bytes, a header that holds their SHA-256, padded to a multiple of 8, then the data."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"b": np.array([[1, -2]], np.float32), "a": np.array([7], np.uint64)})
    data = b"\7\0\0\0\0\0\0\0" + b"\0\0\x80\x3f" + b"\0\0\0\xc0"
    sealed = (
        b'{"a": {"data_offsets": [0, 8], "dtype": "U64", "shape": [1]}, '
        b'"b": {"data_offsets": [8, 16], "dtype": "F32", "shape": [1, 2]}}'
    )
    header = (
        b'{"__metadata__":{"format":"mlx","sha256":"%s"},"a":{"dtype":"U64","shape":[1],"data_offsets":[0,8]},'
        b'"b":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}'
    ) % hashlib.sha256(sealed + data).hexdigest().encode()
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_package_reads_it(dtype: str, tmp_path: Path) -> None:
    """The safetensors package accepts the file, with every name, shape and type; whatever the layout in memory."""
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors: Tensors = {"t": square.T, "scalar": np.array(3, np.float32), "packed": np.array([1], np.uint32)}
    tensors |= {"empty": np.zeros((0, 4), np.float32)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, dtype)
    kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "mlx"
        for name, tensor in tensors.items():
            stored = file.get_slice(name)
            assert tuple(stored.get_shape()) == tensor.shape
            assert stored.get_dtype() == ("U32" if name == "packed" else kinds[dtype])
    read = read_safetensors(path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_alignment(tmp_path: Path) -> None:
    """Every tensor begins at a multiple of its numbers' size, so that other tools can map the file."""
    path = tmp_path / "x.safetensors"
    write_tensors(
        path, {"a": np.ones(3, np.float32), "b": np.ones(1, np.uint64), "c": np.ones(1, np.uint32)}, "float16"
    )
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    sizes = {"a": 2, "b": 8, "c": 4}
    assert all(header[name]["data_offsets"][0] % size == 0 for name, size in sizes.items())


@pytest.mark.parametrize(
    ("bits", "stored"),
    [
        (0x3F800000, 0x3F80),  # 1
        (0x3F807FFF, 0x3F80),  # just below half way: down
        (0x3F808000, 0x3F80),  # half way, the lower neighbour even
        (0x3F808001, 0x3F81),  # just above half way: up
        (0x3F818000, 0x3F82),  # half way, the upper neighbour even
        (0xBF818000, 0xBF82),  # the same below zero
        (0x3FFFFFFF, 0x4000),  # carried into the exponent
        (0x00000001, 0x0000),  # the smallest number there is
        (0x80000000, 0x8000),  # -0
    ],
)
def test_bfloat16_rounds_to_nearest_even(bits: int, stored: int, tmp_path: Path) -> None:
    """A float32 becomes the nearest bfloat16, and of two equally near the even one (IEEE 754, 4.3.1)."""
    write_tensors(tmp_path / "x", {"w": np.array([bits], np.uint32).view(np.float32)}, "bfloat16")
    assert (tmp_path / "x").read_bytes()[-2:] == stored.to_bytes(2, "little")


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_too_large(dtype: str, value: float, tmp_path: Path) -> None:
    """A number beyond the type is an error that names the tensor, and no file is written."""
    with pytest.raises(
        TinyLMError, match=rf"^h\.0\.w holds {re.escape(f'{value:g}')}, too large for {dtype}; choose another --dtype"
    ):
        write_tensors(tmp_path / "x", {"h.0.w": np.array([1, value], np.float32)}, dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65504.0), ("bfloat16", 3.3e38)])
def test_the_largest(dtype: str, value: Any, tmp_path: Path) -> None:
    """The largest numbers of a type are written."""
    write_tensors(tmp_path / "x", {"w": np.array([value, -value], np.float32)}, dtype)
    assert np.isfinite(read_safetensors(tmp_path / "x")["w"]).all()


def test_damage_to_the_numbers_is_found(tmp_path: Path) -> None:
    """Any changed byte of the data is noticed, and a file that records no SHA-256, as other tools', is read."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(3, dtype=np.float32)})
    content = path.read_bytes()
    for place in range(len(content) - 12, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(TinyLMError, match=r"is damaged \(its SHA-256 is not the one recorded\)$"):
            read_safetensors(path)
    save_file({"a": np.arange(3, dtype=np.float32)}, path)
    assert read_safetensors(path)["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("metadata", ["", '"__metadata__":null,', '"__metadata__":{},'], ids=["none", "null", "empty"])
def test_metadata_that_says_nothing(metadata: str, tmp_path: Path) -> None:
    """A header without metadata, or with an empty or null one, records no SHA-256, and the file is read."""
    header = f'{{{metadata}"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}'.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32(7).tobytes())
    assert read_safetensors(path)["a"].tolist() == [7]
