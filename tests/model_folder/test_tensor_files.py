"""Safetensors files as we write them, to the byte, and as the safetensors package reads them."""

from __future__ import annotations

import hashlib
import json
import re
import struct
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
    """The package reads every name, shape and type, and finds each tensor at a multiple of its numbers' size."""
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors: Tensors = {"t": square.T, "scalar": np.array(3, np.float32), "packed": np.array([1], np.uint32)}
    tensors |= {"empty": np.zeros((0, 4), np.float32), "odd": np.ones(1, np.float32), "long": np.ones(1, np.uint64)}
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, dtype)
    kinds = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "mlx"
        for name, tensor in tensors.items():
            stored = file.get_slice(name)
            assert tuple(stored.get_shape()) == tensor.shape
            kind, size = {"packed": ("U32", 4), "long": ("U64", 8)}.get(name, kinds[dtype])
            assert stored.get_dtype() == kind
            assert header[name]["data_offsets"][0] % size == 0
    read = read_safetensors(path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


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


@pytest.mark.parametrize(("dtype", "largest", "beyond"), [("float16", 65504.0, 65520.0), ("bfloat16", 3.3e38, 3.4e38)])
def test_the_largest(dtype: str, largest: float, beyond: float, tmp_path: Path) -> None:
    """The largest numbers of a type are written; one beyond is an error that names the tensor, and leaves no file."""
    path = tmp_path / "x"
    with pytest.raises(
        TinyLMError, match=rf"^h\.0\.w holds {re.escape(f'{beyond:g}')}, too large for {dtype}; choose another --dtype"
    ):
        write_tensors(path, {"h.0.w": np.array([1, beyond], np.float32)}, dtype)
    assert not list(tmp_path.iterdir())
    write_tensors(path, {"w": np.array([largest, -largest], np.float32)}, dtype)
    assert np.isfinite(read_safetensors(path)["w"]).all()


def raw_file(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> Path:
    """A safetensors file made byte by byte, whatever is wrong with it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(("kind", "dtype"), [("BF16", None), ("F16", np.float16)])
def test_every_short_number_is_widened_exactly(kind: str, dtype: Any, tmp_path: Path) -> None:
    """Each of the 65,536 numbers of 16 bits becomes the float32 of that value: subnormals, infinities, NaN and all."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    header = entry(dtype=kind, shape=[256, 256], data_offsets=[0, 1 << 17])
    wide = read_safetensors(raw_file(tmp_path / "x", header, bits.tobytes()))["a"]
    assert (wide.dtype, wide.shape) == (np.float32, (256, 256))
    if kind == "BF16":  # the upper half of a float32
        assert wide.tobytes() == (bits.astype(np.uint32) << 16).tobytes()
    else:
        expected = [struct.unpack("<e", number.tobytes())[0] for number in bits]
        np.testing.assert_array_equal(wide.reshape(-1), np.array(expected))
        assert (np.signbit(wide) == np.signbit(bits.view(np.float16).reshape(256, 256))).all()


def refused(path: Path) -> str:
    """The one line that refuses a file, after the file's name."""
    with pytest.raises(TinyLMError) as error:
        read_safetensors(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 400 + len(str(path))
    return message.removeprefix(f"{path}: ")


NOTHING = b"\0" * 16
HOSTILE: list[tuple[dict[str, Any] | bytes, bytes, int | None]] = [
    *((entry(), NOTHING, length) for length in (2**63, 2**64 - 1, 10**8 + 1, 3)),
    *((entry(), bytes(size), None) for size in (15, 17, 0)),
    *((text, b"", None) for text in (b"", b"\xff" * 40, b"[" * 5000, b"{" * 5000, b'{"a": 1}', b"null")),
    *((entry(dtype=dtype), NOTHING, None) for dtype in ("F31", "\n\x1b[2J", 7, "x" * 5000)),
    *((entry(shape=shape), NOTHING, None) for shape in ([-2, -2], [2**32, 2**32], [2**63, 2, 4], [2.0, 2])),
    *((entry(shape=shape), NOTHING, None) for shape in ([10**30], [5], "22")),
    *((entry(data_offsets=place), NOTHING, None) for place in ([0, 32], [16, 0], [-16, 0], [0], [2**64 - 16, 2**64])),
    (entry(data_offsets=[8, 24]), NOTHING + bytes(8), None),
    (entry() | {"b": entry()["a"]}, NOTHING, None),  # overlapping
    *((entry() | {"__metadata__": value}, NOTHING, None) for value in (3, {"a": {"b": "c"}})),
]


@pytest.mark.parametrize(("header", "data", "length"), HOSTILE)
def test_hostile_headers(header: dict[str, Any] | bytes, data: bytes, length: int | None, tmp_path: Path) -> None:
    """Headers that lie about sizes, types, places and themselves are refused with the file's name."""
    assert refused(raw_file(tmp_path / "x", header, data, length)).startswith("not a safetensors file, or damaged (")


@pytest.mark.parametrize(
    ("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("I16", 2), ("I8", 1), ("F64", 8), ("C64", 8)]
)
def test_types_the_format_knows_and_weights_do_not(dtype: str, size: int, tmp_path: Path) -> None:
    """A type of the format that is none of a weight is refused by its name."""
    path = raw_file(tmp_path / "x", entry(dtype=dtype, shape=[4], data_offsets=[0, 4 * size]), bytes(4 * size))
    with pytest.raises(TinyLMError, match=f"x: a is of type {dtype}; weights are float32, float16 or bfloat16$"):
        read_safetensors(path)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "x" * 5000, "\u202e"], ids=lambda name: ascii(name)[:10])
def test_hostile_names(name: str, tmp_path: Path) -> None:
    """A tensor's name reaches the terminal neither with control characters nor at endless length."""
    save_file({name: np.zeros(1, np.float32)}, tmp_path / "x")
    assert refused(tmp_path / "x").startswith("holds a tensor called ")


def test_damage_is_found(tmp_path: Path) -> None:
    """A file cut short at any place is refused, and so is any changed byte of the data, by the recorded SHA-256."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": np.arange(3, dtype=np.float32)})
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place])
        assert refused(path).startswith("not a safetensors file, or damaged (")
    for place in range(len(content) - 12, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert refused(path) == "is damaged (its SHA-256 is not the one recorded)"


@pytest.mark.parametrize("metadata", [{}, {"__metadata__": None}, {"__metadata__": {}}], ids=["none", "null", "empty"])
def test_files_of_other_tools(metadata: dict[str, Any], tmp_path: Path) -> None:
    """A header without metadata, or with an empty or null one, records no SHA-256, and the file is read."""
    path = raw_file(tmp_path / "x", metadata | entry(), np.arange(4, dtype=np.float32).tobytes())
    assert read_safetensors(path)["a"].tolist() == [[0, 1], [2, 3]]
