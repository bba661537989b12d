"""The forms of text that `train` and `eval` take, by the command."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tiny_runs import PLAIN, options

Invoke = Callable[..., Result]
GIVEN = options(dataclasses.replace(PLAIN, steps=2, eval_every=2))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of texts and of a model, whose card is none."""
    folder = tmp_path / "texts"
    (folder / "model").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / "model" / name).write_text("no text")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfto be or not to be\r\n" * 1 + b"to be or not to be\r\n" * 299)
    (folder / "b.jsonl").write_text('{"text": "that is the question"}\n' * 20)
    (folder / "latin").write_bytes("où est l'été\n".encode("latin-1") * 50)
    return folder


def rows(result: Result) -> dict[str, str]:
    return dict(re.findall(r"^([a-z ]+?)  +(.*)$", result.stderr, re.M))


def test_the_introduction(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """Before a run begins it is said how much was read, what is held out, and what was changed or passed over, once."""
    result = invoke("train", *GIVEN, "--data", texts, "--out", tmp_path / "run")
    assert result.exit_code == 0
    found = rows(result)
    size = 300 * 19 + 20 * 20
    assert found["text"] == f"{texts}: {size:,} characters, 14 different, in 21 documents of 2 files"
    assert found["held out"] == "610 characters: the last tenth of each long document, one in ten of the short ones"
    assert result.stderr.count("CRLF became LF") == result.stderr.count(f"{texts / 'model'}: passed over") == 1
    assert json.loads(invoke("eval", "--weights", tmp_path / "run", "--json").stdout)["part"] == "held-out part"


def test_val_data(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """Another text is held out whole; the run says so, and `eval` measures it."""
    given = ["--data", texts / "a.txt", "--val-data", texts / "b.jsonl", "--out", tmp_path / "run"]
    result = invoke("train", *GIVEN, *given)
    assert result.exit_code == 0
    assert rows(result)["held out"] == f"400 characters, all of {texts / 'b.jsonl'}"
    assert json.loads(invoke("eval", "--weights", tmp_path / "run", "--json").stdout)["targets"] == 399
    assert invoke("train", "--resume", tmp_path / "run", "--steps", "4").exit_code == 0


def test_val_data_that_is_trained_on(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """A text to validate on that stands in --data as well, alone, in a folder or as a copy, is refused by its name."""
    (texts / "copy.txt").write_bytes((texts / "a.txt").read_bytes())
    for data, held_out in ((texts / "a.txt", "a.txt"), (texts, "b.jsonl"), (texts / "copy.txt", "a.txt")):
        given = ["--data", data, "--val-data", texts / held_out, "--out", tmp_path / "run"]
        refused = invoke("train", *GIVEN, *given)
        assert refused.exit_code == 1
        assert f"{held_out}: is to be trained on and held out; leave it out of --data" in refused.stderr
        assert not (tmp_path / "run").exists()


def test_val_data_of_an_export(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """An export of such a run knows that all of its text was trained on, and which other text it was validated on."""
    given = ["--data", texts / "a.txt", "--val-data", texts / "b.jsonl", "--out", tmp_path / "run"]
    assert invoke("train", *GIVEN, *given).exit_code == 0
    for source, name in (("run", "first"), ("first", "second")):
        assert invoke("export", tmp_path / source, "--out", tmp_path / name).exit_code == 0
        measured = invoke("eval", "--weights", tmp_path / name, "--data", texts / "a.txt", "--json")
        assert json.loads(measured.stdout)["part"] == "all, and the model was trained on all of it"
        missing = invoke("eval", "--weights", tmp_path / name).stderr.strip()
        assert re.search(r"the text it was validated on, '.*b\.jsonl', is not here; give it with --data$", missing)


def test_encodings(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """A text that is no UTF-8 trains and is measured with --encoding, and goes on without; unknown ones are usage."""
    run = tmp_path / "run"
    assert "--encoding latin-1" in invoke("train", *GIVEN, "--data", texts / "latin", "--out", run).stderr
    assert invoke("train", *GIVEN, "--data", texts / "latin", "--encoding", "latin-1", "--out", run).exit_code == 0
    assert "é" in json.loads((run / "tokenizer.json").read_text())["model"]["vocab"]
    assert invoke("train", "--resume", run, "--steps", "4").exit_code == 0
    (texts / "more").write_bytes("l'été est où\n".encode("latin-1") * 9)
    measured = invoke("eval", "--weights", run, "--data", texts / "more", "--encoding", "latin-1", "--json")
    assert json.loads(measured.stdout)["targets"] == 9 * 13 - 1
    for wrong in (["--encoding", "klingon"], ["--resume", run, "--raw"], ["--resume", run, "--encoding", "utf-8"]):
        refused = invoke("train", *wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")


def test_raw(invoke: Invoke, texts: Path, tmp_path: Path) -> None:
    """--raw keeps every byte, of which `eval` knows the same text again without being told."""
    result = invoke("train", *GIVEN, "--data", texts / "a.txt", "--raw", "--out", tmp_path / "run")
    assert rows(result)["text"].endswith(": 6,001 characters, 10 different")
    assert "CRLF" not in result.stderr
    part = "held-out tenth, as the model was trained on the rest"
    measured = invoke("eval", "--weights", tmp_path / "run", "--data", texts / "a.txt", "--json")
    assert json.loads(measured.stdout)["part"] == part


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt.gz", gzip.compress(b"to be or not to be\n" * 999)[:-9], "broken gzip file ("),
        ("a.jsonl", b'{"text": "a"}\n{"content": "b"}\n', "line 2 has no field 'text'; its fields are 'content'"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b', "line 2 is not JSON ("),
        ("a.parquet", b"PAR1", "no .parquet file that can be read ("),
        ("a.txt", b"", "there is no text in it"),
    ],
)
@pytest.mark.parametrize("option", ["--data", "--val-data"])
def test_bad_texts(
    invoke: Invoke, texts: Path, tmp_path: Path, name: str, content: bytes, problem: str, option: str
) -> None:
    """What is no text is one line that names it, and nothing is made of it."""
    path = tmp_path / name
    path.write_bytes(content)
    more = ["--data", texts / "a.txt"] if option == "--val-data" else []
    result = invoke("train", *GIVEN, *more, option, path, "--out", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(f"Error: {path}: {problem}")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_parquet_without_the_extra(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not installed, the line says which extra brings it."""
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = invoke("train", *GIVEN, "--data", tmp_path / "a.parquet")
    assert result.stderr.endswith("need a package that is not here: pip install 'mlx-tinylm[parquet]'\n")
