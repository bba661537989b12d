"""Which part of a text is held out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_tinylm.text.corpus import open_corpus
from mlx_tinylm.text.splitting import SHORT, Splitter


def parts(documents: list[str], size: int) -> tuple[list[str], list[str], int]:
    """What is trained on and what is held out of documents that come in pieces, a string a document, and its size."""
    splitter = Splitter()
    for document in documents:
        splitter.add(len(document))
    split = splitter.split()

    def pieces() -> list[str | None]:
        found: list[str | None] = []
        for document in documents:
            found += [document[i : i + size] for i in range(0, len(document), size)]
            found.append(None)
        return found

    def joined(held_out: bool) -> list[str]:
        found = "".join("|" if piece is None else piece for piece in split.part(iter(pieces()), held_out))
        assert not found or found.endswith("|")
        return found.split("|")[:-1]

    return joined(False), joined(True), splitter.held_out


@pytest.mark.parametrize("length", [1, 2, 9, 10, 2_000, SHORT, 10_007])
def test_one_document(length: int) -> None:
    """Of a single document, however short, the last tenth is held out."""
    text = "".join(chr(ord("a") + place % 26) for place in range(length))
    train, held_out, size = parts([text], 1000)
    cut = int(0.9 * length)
    assert (train, held_out) == ([text[:cut]] if cut else [], [text[cut:]])
    assert size == length - cut


def test_each_long_document_gives_its_last_tenth() -> None:
    """Each is trained on and each is tested: a last file below a tenth of all is not lost, whatever the order."""
    documents = ["a" * 200_000, "b" * SHORT, "c" * 5_000]
    for texts in (documents, documents[::-1]):
        train, held_out, _ = parts(texts, 1 << 20)
        assert train == [text[: int(0.9 * len(text))] for text in texts]
        assert held_out == [text[int(0.9 * len(text)) :] for text in texts]


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 95, 1000])
def test_short_documents_are_dealt_whole(count: int) -> None:
    """One in ten of them is held out whole, spread over all; of a few one is, and never all."""
    documents = [f"{place} " * 5 for place in range(count)]
    train, held_out, size = parts(documents, 3)
    assert sorted(train + held_out) == sorted(documents)
    assert len(held_out) == max(1, count // 10) or count % 10
    assert 1 <= len(held_out) <= count // 10 + 1
    assert size == sum(map(len, held_out))
    places = [documents.index(text) // 10 for text in held_out]
    assert len(set(places)) == len(places)


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40) | st.integers(SHORT - 2, 3 * SHORT), min_size=1, max_size=40),
    size=st.integers(1, 2 * SHORT),
)
def test_every_character_is_in_one_part(lengths: list[int], size: int) -> None:
    """Nothing is lost, nothing is in both parts, and something is held out, whatever the documents and pieces."""
    documents = [chr(ord("A") + place) * length for place, length in enumerate(lengths)]
    train, held_out, characters = parts(documents, size)
    assert sum(map(len, train)) + sum(map(len, held_out)) == sum(lengths)
    assert "".join(sorted("".join(train + held_out))) == "".join(documents)
    assert sum(map(len, held_out)) == characters > 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.sampled_from([1, 7, 1000, 1 << 20]))
def test_the_parts_of_files(tmp_path: Path, size: int) -> None:
    """The parts of a text on disk are the same in pieces of any size."""
    for place, length in enumerate((10, 5_000, 4_095, 30)):
        (tmp_path / f"{place}.txt").write_text(f"{place}" * length)
    corpus = open_corpus([str(tmp_path)])
    found = {
        part: "".join("|" if piece is None else piece for piece in corpus.chunks(part, size))
        for part in ("train", "held_out", "all")
    }
    assert found["train"] == "0" * 10 + "|" + "1" * 4_500 + "|" + "2" * 4_095 + "|" + "3" * 30 + "|"
    assert found["held_out"] == "1" * 500 + "|"
    assert corpus.held_out == 500
