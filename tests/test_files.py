"""Files appear whole or not at all, damage is noticed, and a folder has one owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import (
    cache_dir,
    filled_folder,
    is_interrupted,
    make_folder,
    read,
    read_json,
    remove_leftovers,
    to_json,
    undo_exchange,
    unwritable,
    write_atomically,
)
from mlx_tinylm.locks import is_locked, lock


def full_disk(*args: Any, **more: Any) -> Any:
    raise OSError(28, "No space left on device")


def content_of(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, as its path and its text."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# Writing


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text é\r\n\0", b"text \xc3\xa9\r\n\0"),
        (b"\xff\0bytes", b"\xff\0bytes"),
        ("", b""),
        ("x" * 3_000_000, b"x" * 3_000_000),
        ([b"one", b"", b"two"], b"onetwo"),
        ([], b""),
    ],
    ids=lambda c: repr(c)[:20],
)
def test_writes_what_it_is_given(content: str | bytes | list[bytes], expected: bytes, tmp_path: Path) -> None:
    """Text arrives as UTF-8, bytes as they are, blocks joined; over an older file too, and nothing else is left."""
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == expected
        path.write_text("older")
    assert list(tmp_path.iterdir()) == [path]


def test_blocks_are_taken_one_at_a_time(tmp_path: Path) -> None:
    """Blocks may be made as they are written: while they come, the old file stands; where one fails, it stays."""
    path = tmp_path / "file"
    path.write_text("old")

    def blocks() -> Iterator[bytes]:
        for _ in range(3):
            assert path.read_text() == "old"
            yield b"new"
        raise TinyLMError("no more of it")

    with pytest.raises(TinyLMError, match="no more of it"):
        write_atomically(path, blocks())
    assert content_of(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_file_stays_where_a_write_fails(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call fails, the old file is whole, nothing lies beside it, and one line names the path."""
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, full_disk)
    with pytest.raises(TinyLMError) as error:
        write_atomically(path, "new")
    assert str(error.value) == f"{path}: cannot be written (No space left on device); make room on its disk"
    assert content_of(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("system", ["linux", "macOS", "macOS, foreign file system"])
def test_data_reaches_the_disk_before_the_name_does(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is flushed, then renamed, then the folder is flushed, on macOS with the call that reaches the disk."""
    calls = []
    replace = os.replace

    def recorded(name: str, handle: int) -> None:
        calls.append(f"{name} of {'a folder' if os.path.isdir(f'/dev/fd/{handle}') else os.fstat(handle).st_size}")

    def recorded_replace(source: Any, target: Any) -> None:
        assert Path(source).parent == Path(target).parent  # a rename between two disks would not be one
        calls.append("replace")
        replace(source, target)

    def recorded_fcntl(handle: int, command: int) -> None:
        assert command == 51
        if "foreign" in system:
            raise OSError(25, "Inappropriate ioctl for device")
        recorded("full flush", handle)

    monkeypatch.setattr(os, "fsync", lambda handle: recorded("fsync", handle))
    monkeypatch.setattr(os, "replace", recorded_replace)
    if system != "linux":
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", recorded_fcntl)
    write_atomically(tmp_path / "file", "new")
    call = "full flush" if system == "macOS" else "fsync"
    assert calls == [f"{call} of 3", "replace", f"{call} of a folder"]


@pytest.mark.parametrize("place", ["file/below", "missing/below", "n" * 300, "folder"])
def test_paths_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    """A file in the folder's place, a missing folder, an endless name, a folder in the file's place: one line each."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TinyLMError) as error:
        write_atomically(tmp_path / place, "new")
    assert str(error.value).startswith(f"{tmp_path / place}: cannot be written (")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_folders_are_made_or_the_reason_is_given(tmp_path: Path) -> None:
    """A folder is made with its parents, twice without complaint, and not where a file stands in the way."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TinyLMError) as error:
            make_folder(place)
        assert str(error.value).startswith(f"{place}: cannot be created (")


# Folders


class Killed(BaseException):
    """No handler of errors stops this."""


def test_a_new_folder_takes_its_name_when_it_is_filled(tmp_path: Path) -> None:
    """Until the end there is no folder of the name; then it has all files, and nothing else is left."""
    final = tmp_path / "above" / "final"
    with filled_folder(final) as beside:
        (beside / "file").write_text("x")
        assert not final.exists()
    assert content_of(tmp_path) == {"above/final/file": "x"}
    assert os.listdir(final.parent) == ["final"]


def test_a_folder_that_exists_stays_and_gets_new_files(tmp_path: Path) -> None:
    """The folder itself, its mode, and what is not to be replaced stay; what is replaced goes, named again or not."""
    final = tmp_path / "final"
    (final / "part").mkdir(parents=True)
    for name in ("part/a", "both", "gone", "notes"):
        (final / name).write_text("old")
    final.chmod(0o750)
    (tmp_path / "link").symlink_to("final")
    before = final.stat()
    with filled_folder(tmp_path / "link", ("part", "both", "gone", "never there")) as beside:
        (beside / "part").mkdir()
        for name in ("part/b", "both", "new"):
            (beside / name).write_text("new")
        assert (final / "both").read_text() == "old"
    assert content_of(final) == {"part/b": "new", "both": "new", "new": "new", "notes": "old"}
    assert (final.stat().st_ino, final.stat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(os.listdir(tmp_path)) == ["final", "link"]


def test_a_replacement_that_is_killed_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a process dies while it moves files, the next one finds all the old ones, or, once done, all the new."""
    rename, outcomes = os.rename, set()
    for deadline in range(9):
        final = tmp_path / str(deadline)
        final.mkdir()
        for name in ("a", "b", "mine"):
            (final / name).write_text("old")
        left = deadline

        def dies(source: Any, target: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            rename(source, target)

        def fill(final: Path = final) -> None:
            with filled_folder(final, ("a", "b")) as beside:
                (beside / "a").write_text("new")
                (beside / "c").write_text("new")

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "rename", dies)
            patch.setattr("shutil.rmtree", lambda *_, **more: None)  # the dead tidy nothing up
            fill()
        if interrupted := is_interrupted(final):
            undo_exchange(final)
        found = {name: content for name, content in content_of(final).items() if not name.startswith(".")}
        old, new = {"a": "old", "b": "old", "mine": "old"}, {"a": "new", "c": "new", "mine": "old"}
        assert found in ({**old}, {**old, "c": "new"}, new), deadline
        assert not is_interrupted(final)
        outcomes.add((interrupted, found == new))
    assert outcomes >= {(True, False), (False, True)}


def test_a_folder_that_somebody_else_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """A folder that came to be while the new one was filled is not replaced."""
    final = tmp_path / "final"

    def fill() -> None:
        with filled_folder(final) as beside:
            (beside / "new").write_text("x")
            final.mkdir()
            (final / "theirs").write_text("y")

    with pytest.raises(TinyLMError, match="final: cannot be written"):
        fill()
    assert content_of(tmp_path) == {"final/theirs": "y"}


@pytest.mark.parametrize("at", ["filling", "aside", "in"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), TinyLMError("mistake"), Killed("gone")])
def test_a_folder_that_fails_is_as_it_was(
    error: BaseException, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, in filling or in moving files out and in, the old files are there and nothing else is."""
    final = tmp_path / "final"
    final.mkdir()
    for name in ("a", "b", "c"):
        (final / name).write_text("old")
    rename = os.rename
    fails = {"aside": final / "b", "in": final / ".new" / "b"}.get(at)

    def rename_until(source: Any, target: Any) -> None:
        if fails and Path(source).name == fails.name and Path(source).parent.name[:4] == fails.parent.name[:4]:
            raise error
        rename(source, target)

    def fill() -> None:
        with filled_folder(final, ("a", "b")) as beside:
            for name in ("a", "b"):
                (beside / name).write_text("new")
            if at == "filling":
                raise error

    monkeypatch.setattr(os, "rename", rename_until)
    full = f"{final}: cannot be written (No space left on device); make room on its disk"
    with pytest.raises((TinyLMError, Killed)) as caught:
        fill()
    assert str(caught.value) == (full if isinstance(error, OSError) else str(error))
    assert content_of(tmp_path) == {f"final/{name}": "old" for name in ("a", "b", "c")}
    assert sorted(os.listdir(final)) == ["a", "b", "c"]


def test_errors_name_the_folder_and_not_where_it_is_filled(tmp_path: Path) -> None:
    """What cannot be written while a folder is filled is told under the name that the user gave."""
    (tmp_path / "file").write_text("x")

    def fill(final: Path) -> None:
        with filled_folder(final) as beside:
            write_atomically(beside / "missing" / "file", "x")

    with pytest.raises(TinyLMError) as caught:
        fill(tmp_path / "final")
    assert str(caught.value).startswith(f"{tmp_path / 'final' / 'missing' / 'file'}: cannot be written (No such file")
    with pytest.raises(TinyLMError) as caught:
        fill(tmp_path / "file" / "final")
    assert str(caught.value) == f"{tmp_path / 'file' / 'final'}: cannot be written (Not a directory)"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room on its disk"),
        (errno.EACCES, "you may not write there: change its permissions, or choose another place"),
        (errno.EROFS, "its disk is read-only: choose another place"),
        (errno.ENOENT, "its folder is gone: put it back, or choose another place"),
        (errno.EIO, None),
    ],
)
def test_each_error_has_its_own_advice(number: int, advice: str | None) -> None:
    """A full disk asks for room, a forbidden place for permissions; nothing is said where nothing is known to help."""
    reason = os.strerror(number)
    expected = f"x: cannot be written ({reason})" + (f"; {advice}" if advice else "")
    assert str(unwritable(Path("x"), OSError(number, reason))) == expected


def test_leftovers_are_removed(tmp_path: Path) -> None:
    """What a killed process left half-written goes, or only what is old enough of it; everything else stays."""
    for name in (".final.1.tmp", ".new.2-0123abcd.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    (tmp_path / ".file.123.tmp").write_text("half")
    os.utime(tmp_path / ".file.123.tmp", (0, 0))
    kept = [tmp_path / name for name in (".lock", "notes.tmp", ".notes.tmp", ".old.2-0123abcd", "file")]
    for path in kept:
        path.write_text("keep")
    remove_leftovers(tmp_path, older_than=86_400)
    found = {path.name for path in tmp_path.glob(".*.tmp")} - {".notes.tmp"}
    assert sorted(found) == [".final.1.tmp", ".new.2-0123abcd.tmp"]
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# Reading


def test_reads_files_and_only_files(tmp_path: Path) -> None:
    """Content comes back as it is; nothing, a folder, a device and a loop of links are told apart."""
    (tmp_path / "file").write_bytes(b"\0\xff")
    (tmp_path / "link").symlink_to("file")
    assert read(tmp_path / "file") == read(tmp_path / "link") == b"\0\xff"
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


NO_JSON = [b"", b"{", b"\xff", b'{"a": 1,}', b"nul", b"[" * 100_000, b"9" * 5000, b'"\n"']


@pytest.mark.parametrize("content", NO_JSON, ids=lambda c: repr(c)[:20])
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


# Locks

HOLDER = """
import sys, time
from pathlib import Path
from mlx_tinylm.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """While somebody holds a folder another is refused, and allowed the moment the holder is killed or done."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TinyLMError, match="another training run is writing here"), lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with pytest.raises(OSError, match="inside"), lock(tmp_path):
        raise OSError("inside")  # what goes wrong in the block is not about the lock
    with lock(tmp_path), pytest.raises(TinyLMError, match="another training run"), lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    """A folder that vanished, or is a file, is named in one line."""
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "no", tmp_path / "file"):
        with pytest.raises(TinyLMError) as error, lock(place):
            pass
        assert str(error.value).startswith(f"{place}: cannot be locked (")


# The user's cache


SYSTEMS = [
    ("linux", "XDG_CACHE_HOME", ".cache"),
    ("win32", "LOCALAPPDATA", "AppData/Local"),
    ("darwin", None, "Library/Caches"),
]


@pytest.mark.parametrize(("platform", "variable", "unset"), SYSTEMS)
def test_cache_dir_is_where_the_system_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, unset: str
) -> None:
    """Each system's own place for caches, its variable first."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("LOCALAPPDATA", "")
    assert cache_dir() == tmp_path / unset / "mlx-tinylm"
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
        assert cache_dir() == tmp_path / "elsewhere" / "mlx-tinylm"


def test_whether_a_folder_is_locked(tmp_path: Path) -> None:
    """It can be told without a lock of one's own, and without a file that was not there."""
    assert not is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
    with lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
