"""Damage is found when a file is read: hashes, sealed JSON, and checksums of what lies in the cache."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json, to_json

CHECKSUM, FIRST = 4, 1  # bytes, and what the CRC-32 begins with: four zeros are no whole file
BLOCK = 1 << 20  # bytes read at once


def digest(*parts: bytes | memoryview) -> str:
    """The SHA-256 of the parts one after the other, in hexadecimal."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; raises OSError where it cannot be read."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def sealed(content: dict[str, Any]) -> str:
    """`to_json` of an object with its own SHA-256 in it, for `read_sealed`."""
    return to_json(content | {"sha256": _seal(content)})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `sealed` wrote; raises TinyLMError naming the file where anything in it has changed since."""
    content = read_json(path)
    seal = content.pop("sha256", None) if isinstance(content, dict) else None
    if seal is None or seal != _seal(content):
        raise TinyLMError(f"{path}: is damaged or was edited (its SHA-256 is not the one recorded)")
    return dict(content)


def _seal(content: dict[str, Any]) -> str:
    return digest(json.dumps(content, sort_keys=True).encode())


def with_checksum(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, then their CRC-32 in CHECKSUM bytes: for a file of the cache, which is checked before each use."""
    checksum = FIRST
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
        yield block
    yield checksum.to_bytes(CHECKSUM, "little")


def ends_in_checksum(path: Path) -> bool:
    """Whether a file is there, can be read, and is what `with_checksum` gave."""
    try:
        with open(path, "rb") as file:
            left, checksum = path.stat().st_size - CHECKSUM, FIRST
            while left > 0 and (block := file.read(min(left, BLOCK))):
                checksum = zlib.crc32(block, checksum)
                left -= len(block)
            return left == 0 and file.read() == checksum.to_bytes(CHECKSUM, "little")
    except OSError:
        return False
