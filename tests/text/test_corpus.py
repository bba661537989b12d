"""Text from files, folders, gzip files and standard input."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text import corpus, named_corpora
from mlx_tinylm.text.corpus import Corpus, Reading, open_corpus

ODD = "na\u00efve\n\0\r \ufeff\U0001f642\u6587\n\U0001f642 end"
RAW = "\ufeffone\r\ntwo\r\r\n\n<|endoftext|>\nthree"


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return str(path)


def refusal(*data: str) -> str:
    with pytest.raises(TinyLMError) as caught:
        open_corpus(data)
    return str(caught.value)


def joined(found: Corpus, part: str = "all", size: int = 1 << 20) -> str:
    """A part of a text with a bar after each document."""
    return "".join("|" if piece is None else piece for piece in found.chunks(part, size))


def test_describes_text_as_it_is(tmp_path: Path) -> None:
    """NUL, lone carriage returns, a mark within and emoji are kept, counted and hashed as they are."""
    item = written(tmp_path / "odd.txt", ODD)
    found = open_corpus([item])
    assert (found.name, found.sources, found.files, found.documents) == (item, (Path(item),), 1, 1)
    assert found.sha256 == hashlib.sha256(ODD.encode()).hexdigest()
    assert (found.bytes, found.characters) == (len(ODD.encode()), len(ODD))
    assert found.alphabet == "".join(sorted(set(ODD)))
    assert found.notes == ()
    assert found.text() == ODD


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1 << 20])
def test_chunks_join_to_the_text(tmp_path: Path, size: int) -> None:
    """Pieces of any size are short enough, not empty, and join to the same text each time; of size 0 there are none."""
    found = open_corpus([written(tmp_path / "odd.txt", ODD)])
    for _ in range(2):
        *pieces, end = found.chunks("all", size)
        assert end is None
        assert "".join(str(piece) for piece in pieces) == ODD
        assert all(piece and len(piece) <= size + 1 for piece in pieces)
    with pytest.raises(ValueError, match="a piece of 0 characters"):
        list(found.chunks("all", 0))


def test_files_are_documents(tmp_path: Path) -> None:
    """Each file is a document, hashed with the end of text between two of them; empty files add nothing."""
    texts = {"a": "one", "b": "", "c": "two\n", "d": "three", "e": ""}
    found = open_corpus([written(tmp_path / name, text) for name, text in texts.items()])
    assert joined(found) == "one|two\n|three|"
    assert (found.characters, found.bytes, found.documents, found.files) == (12, 12, 3, 5)
    assert found.sha256 == hashlib.sha256(b"one<|endoftext|>two\n<|endoftext|>three").hexdigest()
    assert found.text() == "one<|endoftext|>two\n<|endoftext|>three"
    assert found.name == ", ".join(str(tmp_path / name) for name in texts)
    assert found.alphabet == "\nehnortw"


def test_files_that_are_read_as_one(tmp_path: Path) -> None:
    """As runs of several files once read them: all is kept, and a newline goes between two where one is missing."""
    texts = {"a": "one", "b": "", "c": "two\r\n", "d": "three", "e": ""}
    items = [written(tmp_path / name, text) for name, text in texts.items()]
    found = open_corpus(items, Reading(raw=True, as_one=True))
    assert (found.text(), found.documents) == ("one\ntwo\r\nthree", 1)
    assert found.sha256 == hashlib.sha256(b"one\ntwo\r\nthree").hexdigest()
    assert joined(found, "train") + joined(found, "held_out") == "one\ntwo\r\nthr|ee|"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_marks_and_line_ends(tmp_path: Path, size: int) -> None:
    """A mark at the start is no text and CRLF becomes LF, which is said once; raw, every byte is kept."""
    item = written(tmp_path / "a.txt", RAW)
    found = open_corpus([item, written(tmp_path / "b.txt", RAW)])
    assert joined(found, size=size) == "one\ntwo\r\n\n|three|" * 2
    assert found.notes == (f"{item} and 1 more file: CRLF became LF at the ends of lines; --raw keeps every byte",)
    raw = open_corpus([item], Reading(raw=True))
    assert (joined(raw, size=size), raw.notes) == (f"{RAW}|", ())


@pytest.mark.parametrize("size", [1, 2, 5, 13, 14, 20, 1 << 20])
def test_a_line_parts_documents(tmp_path: Path, size: int) -> None:
    """A line that is the end of text and nothing else parts documents; more on the line, or before it, is text."""
    end = "<|endoftext|>"
    text = f"{end}\n{end}\na{end}\n{end}b\n{end}\n\n{end}\n<|\n{end}"
    found = open_corpus([written(tmp_path / "a.txt", text)])
    assert joined(found, size=size) == f"a{end}\n{end}b\n|\n|<|\n|"
    assert (found.documents, found.alphabet) == (3, "".join(sorted(set(f"ab{end}\n"))))
    assert joined(open_corpus([written(tmp_path / "b.txt", f"a\n{end}")])) == "a\n|"


def test_each_record_is_a_document(tmp_path: Path) -> None:
    """The field `text` of each line of a .jsonl file, packed or not, is a document, unless it is empty."""
    lines = [
        json.dumps({"text": text, "id": 1}, ensure_ascii=False)
        for text in ("one\r\n<|endoftext|>\n", "", "zw\u00f6lf \U0001f642")
    ]
    content = "\ufeff" + "\r\n\n".join(lines)
    found = open_corpus([written(tmp_path / "a.jsonl", content)])
    assert joined(found) == "one\n<|endoftext|>\n|zw\u00f6lf \U0001f642|"
    assert len(found.notes) == 1
    (tmp_path / "b.JSONL.gz").write_bytes(gzip.compress(content.encode()))
    assert open_corpus([str(tmp_path / "b.JSONL.gz")]).sha256 == found.sha256
    written(tmp_path / "c.jsonl", "\n".join(json.dumps({"text": text}) for text in ("zw\u00f6lf \U0001f642", "a")))
    assert joined(open_corpus([str(tmp_path / "c.jsonl")])) == "zw\u00f6lf \U0001f642|a|"


def test_a_character_cut_by_the_end_of_a_file_is_not_completed_by_the_next(tmp_path: Path) -> None:
    """Each file is UTF-8 on its own: two halves of a character in two files are refused at the first."""
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes(b"ab\xc3")
    second.write_bytes(b"\xa9")
    assert refusal(str(first), str(second)).startswith(f"{first}: not UTF-8 at byte 2.")


def test_alphabet_grows_with_later_pieces(tmp_path: Path) -> None:
    """A character that first appears in the last piece is in the alphabet, in code-point order."""
    text = "b" * 3_000_000 + "\U0010ffff" + "c" * 3_000_000 + "a"
    assert open_corpus([written(tmp_path / "a.txt", text)]).alphabet == "abc\U0010ffff"


def test_folder_gives_its_texts_in_sorted_order(tmp_path: Path) -> None:
    """Every *.txt and *.md below a folder is read, sorted by path; other files and dot names are not."""
    for name in ("b.txt", "a/z.md", "a/y/deep.TXT", "c.md", "no.py", ".hidden.txt", ".git/x.txt", "._b.txt"):
        written(tmp_path / name, f"{name}\n")
    written(tmp_path / "a" / "b.jsonl", '{"text": "a/b.jsonl\\n"}')
    (tmp_path / "d.md.gz").write_bytes(gzip.compress(b"d.md.gz\n"))
    found = open_corpus([str(tmp_path)])
    assert joined(found) == "a/b.jsonl\n|a/y/deep.TXT\n|a/z.md\n|b.txt\n|c.md\n|d.md.gz\n|"


def test_folders_of_models_are_passed_over(tmp_path: Path) -> None:
    """Cards and logs of models are no texts: their folders are passed over, which is said, and hold no text alone."""
    written(tmp_path / "a.txt", "text")
    for name in ("README.md", "metrics.jsonl", "deeper/text.txt", "config.json", "model.safetensors"):
        written(tmp_path / "weights" / "run" / name, "no text")
    found = open_corpus([str(tmp_path)])
    assert (joined(found), found.notes) == ("text|", (f"{tmp_path}/weights/run: passed over, as a model lies there",))
    only = tmp_path / "weights"
    assert refusal(str(only)).startswith(
        f"{only}: no *.txt, *.md, *.jsonl, *.parquet file in this folder but in a model"
    )
    (only / "run" / "config.json").unlink()
    assert "no text" in joined(open_corpus([str(only / "run" / "README.md")]))
    assert "line 1 is not JSON" in refusal(str(only))


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
@pytest.mark.parametrize("before", [0, (1 << 20) - 8, (1 << 20) - 3])
def test_invalid_utf8_names_file_and_offset(tmp_path: Path, contents: bytes, offset: int, before: int) -> None:
    """The message gives the file and the byte where decoding fails, wherever the pieces are cut."""
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * before + contents)
    assert refusal(str(path)).startswith(f"{path}: not UTF-8 at byte {before + offset}. ")
    zipped = tmp_path / "latin.txt.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert refusal(str(zipped)).startswith(f"{zipped}: not UTF-8 at byte {before + offset} of the unpacked text. ")


def test_unknown_names_suggest(tmp_path: Path) -> None:
    """An item that is nothing here is quoted, with the nearest corpus or the ways to name text."""
    assert refusal("TinyShakespear") == (
        "'TinyShakespear': no corpus, file or folder of this name. Did you mean tinyshakespeare?"
    )
    for item in (str(tmp_path / "gone.txt"), "", "a\0b", written(tmp_path / "file", "x") + "/below"):
        assert refusal(item) == (
            f"{item!r}: no corpus, file or folder of this name. "
            f"Give a path, an address, - for standard input, or one of: {', '.join(named_corpora.NAMED)}."
        )
    with pytest.raises(TinyLMError, match=r"'poems': no corpus"):
        corpus.open_named("poems")


def test_no_text_is_refused(tmp_path: Path) -> None:
    """Empty files, an empty gzip file, an empty list and a folder of other files are refused, with what was named."""
    a, b = written(tmp_path / "a", ""), str(tmp_path / "b.gz")
    Path(b).write_bytes(gzip.compress(b""))
    assert refusal(a, b) == f"{a}, {b}: there is no text in it. Name a file with text."
    assert "no text" in refusal()
    assert refusal(str(tmp_path)).startswith(f"{tmp_path}: no *.txt, *.md, *.jsonl, *.parquet file in this folder.")


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
    monkeypatch.setattr(named_corpora, "fetch", lambda name: kept)
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "tinyshakespeare", "a file")
    written(tmp_path / "tinyshakespeare.txt", "with a suffix")
    assert open_corpus(["tinyshakespeare"]).text() == "the corpus"
    assert corpus.open_named("tinyshakespeare").text() == "the corpus"
    assert open_corpus(["./tinyshakespeare"]).text() == "a file"
    assert open_corpus(["tinyshakespeare.txt", "tinyshakespeare"]).text() == "with a suffix<|endoftext|>the corpus"


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
        assert (
            sum(len(piece or "") for part in ("train", "held_out") for piece in found.chunks(part)) == found.characters
        )
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
        found = open_corpus([str(path)], Reading(raw=True))
    except TinyLMError as error:
        message = str(error)
    else:
        text = content.decode()
        assert found.text() == text
        assert (found.characters, found.alphabet) == (len(text), "".join(sorted(set(text))))
    assert message.isprintable()
