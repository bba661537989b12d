"""Files that are no UTF-8, and files that are not what they seem."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import ChangedTextError, open_corpus
from mlx_tinylm.text.reading import Reading

TEXT = "Où est l'été?\nЯ здесь.\n" * 40_000  # over a piece in every encoding


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "gb18030", "UTF8"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """A text has the same SHA-256 in whatever encoding it lies, wherever a piece cuts a character."""
    (tmp_path / "a.txt").write_bytes(TEXT.replace("\n", "\r\n").encode(encoding))
    (tmp_path / "b.txt").write_bytes(TEXT.encode())
    found = open_corpus([str(tmp_path / "a.txt")], Reading(encoding))
    assert found.sha256 == open_corpus([str(tmp_path / "b.txt")]).sha256
    assert found.text() == TEXT


def test_records_in_another_encoding(tmp_path: Path) -> None:
    """Records are read in it, too, and the line that is something else is named."""
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "été"}\n{"text": "là"}\n'.encode("latin-1"))
    assert open_corpus([str(path)], Reading("latin-1")).text() == "été<|endoftext|>là"
    with pytest.raises(TinyLMError, match=r"a\.jsonl: line 1, or one soon after it, is not UTF-8; say what it is with"):
        open_corpus([str(path)])


@pytest.mark.parametrize("name", ["klingon", "", "rot13", "base64", "hex", "a\0b", "x" * 999])
def test_no_encoding_of_text(name: str) -> None:
    """What Python does not know, and what encodes no text, is refused in a line."""
    with pytest.raises(
        TinyLMError, match=r"^--encoding '.*': Python knows no encoding of text of this name; try"
    ) as error:
        Reading(name)
    assert len(str(error.value)) < 300


def test_what_a_file_may_be(tmp_path: Path) -> None:
    """A file that is not UTF-8 is refused with the way to read it; one of UTF-16 is known by its first two bytes."""
    path = tmp_path / "a.txt"
    for content, way in (
        ("été".encode("latin-1"), "say what it is (--encoding latin-1)"),
        (TEXT.encode("utf-16"), "add --encoding utf-16"),
    ):
        path.write_bytes(content)
        with pytest.raises(TinyLMError) as error:
            open_corpus([str(path)])
        assert str(error.value).startswith(f"{path}: not UTF-8 at byte 0. ")
        assert way in str(error.value)
    with pytest.raises(TinyLMError, match=r"a\.txt: not ascii at byte 0"):
        open_corpus([str(path)], Reading("ascii"))


@pytest.mark.parametrize("part", ["all", "train", "held_out"])
def test_a_text_that_changes_while_it_is_read(tmp_path: Path, part: str) -> None:
    """The end of a pass tells that a text is another one now, whichever part was read, and however it has changed."""
    path = tmp_path / "a.txt"
    for before, after in (("abc" * 50, "abd" * 50), ("abc" * 50, "abc" * 4000), ("abc" * 50, "abc"), ("a" * 9000, "a")):
        path.write_text(before)
        other = tmp_path / "b.txt"
        other.write_text("b" * 5000)
        for items in ([str(path)], [str(path), str(other)]):
            path.write_text(before)
            corpus = open_corpus(items)
            path.write_text(after)
            with pytest.raises(ChangedTextError, match=r"changed while it was read; try again when it is at rest$"):
                list(corpus.chunks(part))


@pytest.mark.parametrize(
    ("encoding", "content"), [("utf-7", b"a +2AA- b\n"), ("unicode_escape", b"a \\ud800 b\n"), ("punycode", b"a-b.c\n")]
)
def test_what_an_encoding_makes_no_text_of(encoding: str, content: bytes, tmp_path: Path) -> None:
    """Half of a surrogate pair, and what a codec refuses in its own way, end in a line that names file and encoding."""
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(TinyLMError, match=rf"a\.txt: not {encoding} at byte 0\. "):
        open_corpus([str(tmp_path / "a.txt")], Reading(encoding))
