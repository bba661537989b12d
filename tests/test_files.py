"""Files appear whole or not at all, and a folder has one owner."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import (
    lock,
    make_folder,
    read,
    read_json,
    read_sealed,
    remove,
    remove_leftovers,
    sealed,
    sha256_of,
    to_json,
    whole_folder,
    write_atomically,
)


def full_disk(*args: Any, **more: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("content", ["text é\r\n\0", b"\xff\0bytes", "", "x" * 3_000_000], ids=lambda c: repr(c)[:20])
def test_writes_what_it_is_given(content: str | bytes, tmp_path: Path) -> None:
    """Text arrives as UTF-8 and bytes as they are, over an older file too, and nothing else is left."""
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        path.write_text("older")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_file_stays_where_a_write_fails(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call fails, the old file is whole, nothing lies beside it, and one line names the path."""
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(TinyLMError) as error:
        write_atomically(path, "new")
    assert str(error.value) == f"{path}: cannot be written (No space left on device)"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_data_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed, then renamed, then the folder is flushed: a power cut never finds half a file."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        calls.append(f"fsync of {os.fstat(handle).st_size} bytes" if not calls else "fsync")
        fsync(handle)

    def recorded_replace(*paths: Any) -> None:
        calls.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(tmp_path / "file", "new")
    assert calls == ["fsync of 3 bytes", "replace", "fsync"]


def test_the_new_file_appears_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the rename, whoever looks sees the old content."""
    path = tmp_path / "file"
    path.write_text("old")
    real = os.replace

    def look_first(source: Any, target: Any) -> None:
        assert path.read_text() == "old"
        assert Path(source).read_text() == "new"
        assert Path(source).parent == tmp_path  # a rename between two disks would not be one
        real(source, target)

    monkeypatch.setattr(os, "replace", look_first)
    write_atomically(path, "new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("place", ["file/below", "missing/below", "n" * 300, "folder"])
def test_paths_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    """A file in the folder's place, a missing folder, an endless name, a folder in the file's place: one line each."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TinyLMError) as error:
        write_atomically(tmp_path / place, "new")
    assert str(error.value).startswith(f"{tmp_path / place}: cannot be written (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_leftovers_are_removed(tmp_path: Path) -> None:
    """What a killed process left half-written goes, files and folders; everything else stays."""
    (tmp_path / ".model.safetensors.123.tmp").write_text("half")
    (tmp_path / ".00000010.tmp").mkdir()
    (tmp_path / ".00000010.tmp" / "part").write_text("half")
    kept = [tmp_path / ".lock", tmp_path / "notes.tmp", tmp_path / "file"]
    for path in kept:
        path.write_text("keep")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    remove(tmp_path / "never there")


def test_folders_are_made_or_the_reason_is_given(tmp_path: Path) -> None:
    """A folder is made with its parents, twice without complaint, and not where a file stands in the way."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TinyLMError) as error:
            make_folder(place)
        assert str(error.value).startswith(f"{place}: cannot be created (")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """A folder takes its name when it is filled, in place of the one that had it; nothing else is left."""
    final = tmp_path / "final"
    for content in ("first", "second"):
        with whole_folder(final) as beside:
            (beside / content).write_text(content)
            assert not (final / content).exists()
        assert [path.name for path in final.iterdir()] == [content]
    assert list(tmp_path.iterdir()) == [final]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where filling or renaming fails, the old folder is there as before, and nothing beside it."""
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("x")

    def mistaken() -> None:
        with whole_folder(final) as beside:
            (beside / "new").write_text("x")
            raise TinyLMError("mistake")

    with pytest.raises(TinyLMError, match="mistake"):
        mistaken()
    real = os.rename

    def fails_for_the_new(source: Any, target: Any) -> None:
        if Path(target) == final and (Path(source) / "new").exists():
            full_disk()
        real(source, target)

    monkeypatch.setattr(os, "rename", fails_for_the_new)
    with pytest.raises(TinyLMError, match=r"final: cannot be written \(No space left"), whole_folder(final) as beside:
        (beside / "new").write_text("x")
    assert [path.name for path in final.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [final]


# Reading


def test_reads_files_and_only_files(tmp_path: Path) -> None:
    """Content comes back as it is; nothing, a folder, a device and a loop of links are told apart."""
    (tmp_path / "file").write_bytes(b"\0\xff")
    assert read(tmp_path / "file") == b"\0\xff"
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "link") == b"\0\xff"
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to(os.devnull)
    expected = {
        "no": "no such file",
        ".": "cannot be read (Is a directory)",
        "device": "not a file",
        "loop": "cannot be read (",
        "file/below": "cannot be read (Not a directory)",
    }
    for name, reason in expected.items():
        with pytest.raises(TinyLMError) as error:
            read(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {reason}")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'{"a": 1,}', b"nul", b"[" * 100_000, b"9" * 5000, b'"\n"'],
    ids=lambda c: repr(c)[:20],
)
def test_json_that_is_none(content: bytes, tmp_path: Path) -> None:
    """A file that is no JSON is named in one line, without its content."""
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(TinyLMError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: not valid JSON (")
    assert len(str(error.value)) < len(str(path)) + 130
    assert str(error.value).isprintable()


def test_json_round_trip(tmp_path: Path) -> None:
    """JSON is written for people and read back equal, even names of files that are no UTF-8."""
    content = {"a": [1, 2.5, None, True], "é😀": "\n", "name": os.fsdecode(b"caf\xe9.txt")}
    text = to_json(content)
    assert '"é😀"' in text
    assert text.endswith("}\n")
    write_atomically(tmp_path / "file", text)
    assert read_json(tmp_path / "file") == content


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


def test_sealed_content_nested_deeply(tmp_path: Path) -> None:
    """Brackets nested to every depth around what Python's stack allows end in one line."""
    limit = sys.getrecursionlimit()
    for depth in [*range(limit - 150, limit + 4, 2), 100_000]:
        (tmp_path / "file").write_text('{"sha256": "0", "a": ' + "[" * depth + "]" * depth + "}")
        with pytest.raises(TinyLMError, match=r"file: "):
            read_sealed(tmp_path / "file")


def test_sha256(tmp_path: Path) -> None:
    """The hash of a file of several blocks is that of its content."""
    content = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# Locks

HOLDER = """
import sys, time
from pathlib import Path
from mlx_tinylm.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """While one process holds a folder another is refused, and allowed the moment the first is killed."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TinyLMError, match="another training run is writing here"), lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock(tmp_path):
        pass


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    """A folder is free again after the block, also where the block ended in an error, which comes through."""
    with pytest.raises(OSError, match="inside"), lock(tmp_path):
        raise OSError("inside")
    with lock(tmp_path), pytest.raises(TinyLMError, match="another training run"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    """A folder that vanished, or is a file, is named in one line."""
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "no", tmp_path / "file"):
        with pytest.raises(TinyLMError) as error, lock(place):
            pass
        assert str(error.value).startswith(f"{place}: cannot be locked (")
