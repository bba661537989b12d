"""Safetensors files: named NumPy arrays, read with the `safetensors` package and written by a few lines of our own.

A file is the length of the header in 8 bytes, the header (JSON: each tensor's type, shape and place), the data.
The package cannot write bfloat16 from NumPy, which has no such type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.checks import brief
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read, write_atomically
from mlx_tinylm.integrity import digest

Tensors = dict[str, npt.NDArray[Any]]

FLOATS = ("float32", "float16", "bfloat16")
_TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.uint16): "BF16"}
_TYPES |= {np.dtype(np.uint32): "U32", np.dtype(np.uint64): "U64"}


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]], dtype: str = "float32") -> None:
    """Write a safetensors file atomically, its float32 tensors as `dtype`: one of FLOATS.

    Raises TinyLMError naming the tensor where a number is too large for `dtype`.
    """
    stored = {
        name: _narrowed(name, tensor, dtype) if tensor.dtype == np.float32 else tensor
        for name, tensor in tensors.items()
    }
    header: dict[str, Any] = {}
    data, end = [], 0
    # The widest numbers first, so that every tensor begins at a multiple of its numbers' size.
    for name in sorted(stored, key=lambda name: (-stored[name].itemsize, name)):
        tensor = stored[name]
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
        data.append(tensor.tobytes())
    header = {"__metadata__": {"format": "mlx", "sha256": _digest(header, *data)}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, b"".join([len(text).to_bytes(8, "little"), text, *data]))


def _digest(header: Mapping[str, Any], *data: bytes) -> str:
    """The SHA-256 of what stands in a file, the metadata left out."""
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return digest(json.dumps(entries, sort_keys=True).encode(), *data)


def _narrowed(name: str, tensor: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """The nearest numbers that `dtype` has, ties to even; bfloat16 as uint16, the upper half of a float32."""
    narrow: npt.NDArray[Any]
    if dtype == "float32":
        return tensor
    if dtype == "float16":
        with np.errstate(over="ignore"):
            narrow = tensor.astype(np.float16)
        finite = np.isfinite(narrow)
    else:
        bits = np.asarray(tensor, order="C").view(np.uint32)
        narrow = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        finite = narrow & 0x7F80 != 0x7F80  # the exponent of infinity
    if not finite.all():
        largest = float(np.abs(tensor).max())
        raise TinyLMError(f"{name} holds {largest:g}, too large for {dtype}; choose another --dtype")
    return narrow


def read_safetensors(path: Path) -> Tensors:
    """Every tensor of a file under its name, floating-point numbers as float32.

    Raises TinyLMError for a damaged file or a type that is no weight. Damage to the numbers is found in files that
    were written here: the metadata of other tools' files records no SHA-256.
    """
    from safetensors import SafetensorError, deserialize

    content = read(path)
    try:
        entries = deserialize(content)
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:200]
        raise TinyLMError(f"{path}: not a safetensors file, or damaged ({reason})") from None
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    recorded = (header.get("__metadata__") or {}).get("sha256")  # null is allowed there
    if recorded is not None and recorded != _digest(header, content[start:]):
        raise TinyLMError(f"{path}: is damaged (its SHA-256 is not the one recorded)")
    if odd := [name for name, _ in entries if not name.isprintable() or len(name) > 200]:
        raise TinyLMError(f"{path}: holds a tensor called {brief(odd[0])}, which is no name of a weight")
    return {name: _array(f"{path}: {name}", entry) for name, entry in entries}


def stored_types(path: Path) -> dict[str, str]:
    """The type in which each tensor of a file is stored that `read_safetensors` has read, by name."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "U32": "uint32"}
    return {name: names.get(entry["dtype"], entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}


def _array(where: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "U32": np.uint32, "U64": np.uint64}
    dtype = entry["dtype"]
    if dtype in ("BOOL", "U8"):  # the masks in old GPT-2 files
        return np.frombuffer(entry["data"], np.uint8).reshape(entry["shape"])
    if dtype not in types:
        raise TinyLMError(f"{where} is of type {dtype}; weights are float32, float16 or bfloat16")
    array = np.frombuffer(entry["data"], types[dtype]).reshape(entry["shape"])
    if dtype == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if dtype == "F16" else array
