"""Text from files, folders, gzip files and standard input."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text import corpus
from mlx_tinylm.text.corpus import Corpus, open_corpus

ODD = "\ufeffna\u00efve\r\n\0\r \U0001f642\u6587\n\U0001f642 end"


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return str(path)


def refusal(*data: str) -> str:
    with pytest.raises(TinyLMError) as caught:
        open_corpus(data)
    return str(caught.value)


def test_describes_text_as_it_is(tmp_path: Path) -> None:
    """Byte-order mark, NUL, carriage returns and emoji are kept, counted and hashed as they are."""
    item = written(tmp_path / "odd.txt", ODD)
    assert open_corpus([item]) == Corpus(
        name=item,
        sources=(Path(item),),
        sha256=hashlib.sha256(ODD.encode()).hexdigest(),
        bytes=len(ODD.encode()),
        characters=len(ODD),
        alphabet="".join(sorted(set(ODD))),
    )
    assert open_corpus([item]).text() == ODD


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1 << 20])
def test_chunks_join_to_the_text(tmp_path: Path, size: int) -> None:
    """Pieces of any size are short enough, not empty, and join to the same text each time; of size 0 there are none."""
    found = open_corpus([written(tmp_path / "odd.txt", ODD)])
    for _ in range(2):
        pieces = list(found.chunks(size))
        assert "".join(pieces) == ODD
        assert all(0 < len(piece) <= size for piece in pieces)
    with pytest.raises(ValueError, match="a piece of 0 characters"):
        list(found.chunks(0))


def test_files_are_joined_with_a_newline_where_one_is_missing(tmp_path: Path) -> None:
    """A newline goes between two files only where one is missing, and empty files add nothing."""
    texts = {"a": "one", "b": "", "c": "two\n", "d": "three", "e": ""}
    found = open_corpus([written(tmp_path / name, text) for name, text in texts.items()])
    assert found.text() == "one\ntwo\nthree"
    assert (found.characters, found.bytes) == (13, 13)
    assert found.sha256 == hashlib.sha256(b"one\ntwo\nthree").hexdigest()
    assert found.name == ", ".join(str(tmp_path / name) for name in texts)


def test_a_character_cut_by_the_end_of_a_file_is_not_completed_by_the_next(tmp_path: Path) -> None:
    """Each file is UTF-8 on its own: two halves of a character in two files are refused at the first."""
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes(b"ab\xc3")
    second.write_bytes(b"\xa9")
    assert refusal(str(first), str(second)).startswith(f"{first}: not UTF-8 at byte 2.")


def test_alphabet_grows_with_later_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that first appears in the last piece is in the alphabet, in code-point order."""
    monkeypatch.setattr(corpus, "PIECE", 8)
    assert open_corpus([written(tmp_path / "a.txt", "b" * 40 + "\U0010ffff" + "c" * 40 + "a")]).alphabet == (
        "abc\U0010ffff"
    )


def test_folder_gives_its_texts_in_sorted_order(tmp_path: Path) -> None:
    """Every *.txt and *.md below a folder is read, sorted by path; other files and dot names are not."""
    for name in ("b.txt", "a/z.md", "a/y/deep.TXT", "c.md", "no.py", ".hidden.txt", ".git/x.txt", "._b.txt"):
        written(tmp_path / name, f"{name}\n")
    found = open_corpus([str(tmp_path)])
    assert found.text().split() == ["a/y/deep.TXT", "a/z.md", "b.txt", "c.md"]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    """A .gz file stands for the text inside it."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(ODD.encode()))
    assert open_corpus([str(path)]).text() == ODD


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text from standard input is kept, so that it can be read again; given twice or closed, it is refused."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ODD.encode())))
    found = open_corpus(["-"])
    assert (found.name, found.text(), found.text()) == ("stdin", ODD, ODD)
    assert "standard input can be read only once" in refusal("-", "-")
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in refusal("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_can_be_read_more_than_once(tmp_path: Path) -> None:
    """A pipe given by its path, as the shell's <(command) is, can be read again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"through a pipe",), daemon=True)
    writer.start()
    found = open_corpus([str(pipe)])
    writer.join()
    assert (found.text(), found.text()) == ("through a pipe", "through a pipe")


@pytest.mark.parametrize(
    ("contents", "offset"),
    [
        (b"\xff", 0),
        (b"abc\xe9 def", 3),
        (b"0123456\xc3\xa9\xc3(", 9),
        (b"ab\xed\xa0\x80", 2),
        (b"abcdef\xf0\x9f\x99", 6),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 8, 1 << 20])
def test_invalid_utf8_names_file_and_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes, offset: int, piece: int
) -> None:
    """The message gives the file and the byte where decoding fails, wherever the pieces are cut."""
    monkeypatch.setattr(corpus, "PIECE", piece)
    path = tmp_path / "latin.txt"
    path.write_bytes(contents)
    assert refusal(str(path)).startswith(f"{path}: not UTF-8 at byte {offset}. ")
    zipped = tmp_path / "latin.txt.gz"
    zipped.write_bytes(gzip.compress(contents))
    assert refusal(str(zipped)).startswith(f"{zipped}: not UTF-8 at byte {offset} of the unpacked text. ")


def test_unknown_names_suggest(tmp_path: Path) -> None:
    """An item that is nothing here is quoted, with the nearest corpus or the ways to name text."""
    assert refusal("TinyShakespear") == (
        "'TinyShakespear': no corpus, file or folder of this name. Did you mean tinyshakespeare?"
    )
    for item in (str(tmp_path / "gone.txt"), "", "a\0b", written(tmp_path / "file", "x") + "/below"):
        assert refusal(item) == (
            f"{item!r}: no corpus, file or folder of this name. "
            "Give a path, - for standard input, or one of: tinyshakespeare."
        )
    with pytest.raises(TinyLMError, match=r"'poems': no corpus"):
        corpus.open_named("poems")


def test_no_text_is_refused(tmp_path: Path) -> None:
    """Empty files, an empty gzip file, an empty list and a folder of other files are refused, with what was named."""
    a, b = written(tmp_path / "a", ""), str(tmp_path / "b.gz")
    Path(b).write_bytes(gzip.compress(b""))
    assert refusal(a, b) == f"{a}, {b}: there is no text in it. Name a file with text."
    assert "no text" in refusal()
    assert refusal(str(tmp_path)).startswith(f"{tmp_path}: no *.txt or *.md file in this folder.")


def test_broken_gzip_is_refused(tmp_path: Path) -> None:
    """A .gz file that is cut short, altered or no gzip file at all is called broken."""
    whole = gzip.compress(ODD.encode() * 100)
    other_sum = whole[:-8] + bytes(4) + whole[-4:]
    nonsense = whole[:10] + b"\xff" * 50
    for contents in (whole[:-20], other_sum, nonsense, b"plain text"):
        path = tmp_path / "a.gz"
        path.write_bytes(contents)
        assert refusal(str(path)).startswith(f"{path}: broken gzip file (")


def test_unreadable_files_and_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system does not let us read is refused by its name with the system's reason."""
    item = written(tmp_path / "below" / "a.txt", "text")

    def denied(self: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        assert refusal(item).startswith(f"{item}: cannot be read: Permission denied.")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        assert refusal(str(tmp_path)).startswith(f"{tmp_path}: cannot be read: Permission denied.")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links(tmp_path: Path) -> None:
    """A link to a folder elsewhere is followed; one that leads up, to itself or nowhere ends in a message, no hang."""
    written(tmp_path / "elsewhere" / "a.txt", "text")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert open_corpus([str(tmp_path / "here")]).text() == "text"
    written(tmp_path / "a" / "a.txt", "text")
    above = tmp_path / "a" / "up"
    above.symlink_to(tmp_path)
    assert refusal(str(tmp_path)).startswith(f"{above}: this link leads back to a folder above it.")
    itself = tmp_path / "self.txt"
    itself.symlink_to(itself)
    assert refusal(str(itself)).startswith(f"{itself}: cannot be read: ")
    above.unlink()
    itself.unlink()
    gone = tmp_path / "gone.txt"
    gone.symlink_to(tmp_path / "nothing")
    assert refusal(str(tmp_path)).startswith(f"{gone}: cannot be read: No such file")


def test_a_corpus_name_wins_over_a_bare_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tinyshakespeare` is the corpus though a file is called so; a separator or a suffix means the file."""
    kept = tmp_path / "kept"
    written(kept, "the corpus")
    monkeypatch.setattr(corpus, "fetch", lambda name: kept)
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "tinyshakespeare", "a file")
    written(tmp_path / "tinyshakespeare.txt", "with a suffix")
    assert open_corpus(["tinyshakespeare"]).text() == "the corpus"
    assert corpus.open_named("tinyshakespeare").text() == "the corpus"
    assert open_corpus(["./tinyshakespeare"]).text() == "a file"
    assert open_corpus(["tinyshakespeare.txt", "tinyshakespeare"]).text() == "with a suffix\nthe corpus"


def test_memory_stays_constant(tmp_path: Path) -> None:
    """Opening and reading a file takes memory for a piece, not for the file."""
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        for _ in range(48):
            file.write(b"forty-eight megabytes of text \xe2\x80\x94\n" * 30_000)
    open_corpus([written(tmp_path / "small.txt", "numpy is imported here, not below")])
    tracemalloc.start()
    try:
        found = open_corpus([str(path)])
        assert sum(map(len, found.chunks())) == found.characters
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.bytes > 47e6
    assert peak < 32e6


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("name", ["a.txt", "a.gz"])
def test_any_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    """Any file is a text with the characters it says it has, or ends in one line."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name == "a.gz" and len(content) % 2 else content)
    message = "a line"
    try:
        found = open_corpus([str(path)])
    except TinyLMError as error:
        message = str(error)
    else:
        text = content.decode()
        assert found.text() == text
        assert (found.characters, found.alphabet) == (len(text), "".join(sorted(set(text))))
    assert message.isprintable()
