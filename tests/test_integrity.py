"""Damage is noticed: seals and checksums fit what was written and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json, write_atomically
from mlx_tinylm.integrity import digest, ends_in_checksum, read_sealed, sealed, sha256_of, with_checksum


def test_sha256(tmp_path: Path) -> None:
    """The digest of parts, and of a file of several blocks, is that of their content."""
    content = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert sha256_of(tmp_path / "file") == digest(content[:7], memoryview(content)[7:]) == expected


def test_sealed_content(tmp_path: Path) -> None:
    """Sealed JSON comes back as it was; any change to it, or a missing seal, is noticed."""
    path = tmp_path / "file"
    content = {"step": 3, "nested": {"loss": 0.1}, "text": "é"}
    write_atomically(path, sealed(content))
    assert read_sealed(path) == content
    raw = read_json(path)
    for changed in ({**raw, "step": 4}, {**raw, "more": 1}, content, raw["nested"], [raw], None, {"sha256": None}):
        path.write_text(json.dumps(changed))
        with pytest.raises(TinyLMError, match=r"file: is damaged or was edited"):
            read_sealed(path)


def test_the_seal_is_the_one_on_users_disks() -> None:
    """The seal is the SHA-256 of the compact JSON in sorted order: files that older versions wrote still verify."""
    text = '{"step": 3, "text": "\\u00e9"}'
    assert json.loads(sealed({"text": "é", "step": 3}))["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_sealed_content_nested_deeply(tmp_path: Path) -> None:
    """Brackets nested to every depth around what Python's stack allows end in one line."""
    limit = sys.getrecursionlimit()
    for depth in [*range(limit - 150, limit + 4, 2), 100_000]:
        (tmp_path / "file").write_text('{"sha256": "0", "a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(TinyLMError, match=r"file: "):
            read_sealed(tmp_path / "file")


@pytest.mark.parametrize("blocks", [[], [b"ab", b"", b"cd"], [bytes(2_500_000)]], ids=lambda b: repr(b)[:20])
def test_a_checksum_finds_its_file_whole(blocks: list[bytes], tmp_path: Path) -> None:
    """A file is known by the checksum at its end; one that is not there, and a folder, is not whole."""
    path = tmp_path / "file"
    assert not any(map(ends_in_checksum, (path, tmp_path)))
    write_atomically(path, with_checksum(blocks))
    assert path.read_bytes()[:-4] == b"".join(blocks)
    assert ends_in_checksum(path)


def test_a_checksum_finds_damage(tmp_path: Path) -> None:
    """A flipped bit, a missing end, more than was written, and what a power cut leaves are all noticed."""
    whole = b"".join(with_checksum([b"abcd"]))
    bits = int.from_bytes(whole, "little")
    damaged = [(bits ^ 1 << bit).to_bytes(8, "little") for bit in range(64)]
    damaged += [whole[:end] for end in range(8)] + [whole + b"\0", whole + whole] + [bytes(n) for n in range(14)]
    for content in damaged:
        (tmp_path / "file").write_bytes(content)
        assert not ends_in_checksum(tmp_path / "file")
