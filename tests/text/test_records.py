"""Records that are no text: each is named with its file and line."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import open_corpus


def refusal(path: Path) -> str:
    with pytest.raises(TinyLMError) as caught:
        open_corpus([str(path)])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "{",
            "line 2 is not JSON (Expecting property name enclosed in double quotes",
        ),
        ("nonsense", "line 2 is not JSON ("),
        ("[" * 100_000, "line 2 is not JSON ("),
        ("[1]", "line 2 is no JSON object but [1]"),
        ('{"content": "b", "id": 1}', "line 2 has no field 'text'; its fields are 'content', 'id'"),
        ("{}", "line 2 has no field 'text'; its fields are none"),
        ('{"text": null}', "line 2 has no text in its field 'text' but None"),
        ('{"text": ["a"]}', "line 2 has no text in its field 'text' but ['a']"),
        ('{"text": "\\ud83d"}', "line 2 has half of a surrogate pair, which is no character: '\\ud83d'"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_that_is_no_record(tmp_path: Path, line: str, message: str, packed: bool) -> None:
    """A line that is not JSON, no object or without text is refused by its number."""
    content = f'{{"text": "a"}}\n{line}'.encode()
    path = tmp_path / ("a.jsonl.gz" if packed else "a.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert refusal(path).startswith(message)


def test_a_truncated_file(tmp_path: Path) -> None:
    """A .jsonl that was cut short says so by its last line, and one that is packed by gzip's own check."""
    content = b"".join(json.dumps({"text": f"document {place}"}).encode() + b"\n" for place in range(1000))
    path = tmp_path / "a.jsonl"
    path.write_bytes(content[:-5])
    assert refusal(path).endswith("; it is the last one: was the file cut short?")
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(content)[:-20])
    assert refusal(packed).startswith("broken gzip file (Compressed file ended before the end-of-stream marker")


def test_parquet(tmp_path: Path) -> None:
    """Each row of a .parquet file is a document; other columns are not read."""
    path = tmp_path / "a.parquet"
    texts = [f"row {place}, été" for place in range(1000)]
    parquet.write_table(pyarrow.table({"id": range(1000), "text": texts}), path, row_group_size=300)
    found = open_corpus([str(path)])
    assert (found.documents, found.text()) == (1000, "<|endoftext|>".join(texts))


def test_parquet_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such file, one without the field, and a missing package are a line each; the last says what to install."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nonsense")
    assert refusal(path).startswith("no .parquet file that can be read (")
    parquet.write_table(pyarrow.table({"content": ["a"]}), path)
    assert refusal(path) == "row 1 has no field 'text'; its fields are 'content'"
    parquet.write_table(pyarrow.table({"text": ["a", None]}), path)
    assert refusal(path) == "row 2 has no text in its field 'text' but None"
    parquet.write_table(pyarrow.table({"text": [1, 2]}), path)
    assert refusal(path) == "row 1 has no text in its field 'text' but 1"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(path) == ".parquet files need a package that is not here: pip install 'mlx-tinylm[parquet]'"


def test_memory_does_not_grow_with_records(tmp_path: Path) -> None:
    """Records are read one at a time, and each takes less than a byte where it is short."""
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for place in range(200_000):
            file.write(json.dumps({"text": f"document {place} " * 5}) + "\n")
    open_corpus([str(path)])
    tracemalloc.start()
    try:
        corpus = open_corpus([str(path)])
        assert sum(piece is None for piece in corpus.chunks("train")) == 180_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert corpus.documents == 200_000
    assert peak < 8e6
