"""What a run's text is opened with again, in every form that a text has."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from tiny_runs import PLAIN, metrics, on_streams, resume, same_run, write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import evaluate_text
from mlx_tinylm.integrity import sealed
from mlx_tinylm.run_folder.record import BEFORE, RunRecord
from mlx_tinylm.run_folder.training_text import text_at_hand
from mlx_tinylm.text.reading import Reading
from mlx_tinylm.training import resumption, run

pytestmark = pytest.mark.usefixtures("own_cache")
SHORT = dataclasses.replace(PLAIN, steps=4)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with one text in many forms."""
    folder = tmp_path / "texts"
    (folder / "some").mkdir(parents=True)
    text = write_text(folder / "a.txt", 9_000).read_text()
    (folder / "some" / "b.txt").write_bytes(text[:5_000].replace("\n", "\r\n").encode("utf-8-sig"))
    (folder / "some" / "c.md").write_text(text[5_000:])
    (folder / "latin.txt").write_bytes(f"été {text[:3_000]}".encode("latin-1", "ignore"))
    (folder / "d.jsonl.gz").write_bytes(
        gzip.compress(b"".join(json.dumps({"text": text[i : i + 90]}).encode() + b"\n" for i in range(0, 9_000, 90)))
    )
    parquet.write_table(pyarrow.table({"text": [text[:4_500], text[4_500:]]}), folder / "e.parquet")
    (folder / "val.txt").write_text(text[3_000:4_000])
    return folder


@pytest.fixture
def server(texts: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of that folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(texts))) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def started(folder: Path, data: list[str], config: Any = SHORT, **more: Any) -> None:
    with run.start(on_streams(), folder, config, data, **more) as running:
        list(running.events())


def found_again(folder: Path, part: str) -> None:
    """The run goes on, and `eval` measures what the run validated with, from its folder alone, wherever that is now."""
    moved = folder.with_name("moved")
    shutil.move(folder, moved)
    if len(metrics(moved)) < 8:
        assert resume(moved, steps=8).state.step == 8
    report = evaluate_text(moved, [], "numpy")
    assert report.evaluation.loss == pytest.approx(metrics(moved)[-1]["val_loss"], rel=1e-4)
    assert report.part == part


@pytest.mark.parametrize(
    ("data", "more", "part"),
    [
        (["a.txt"], {}, "held-out tenth"),
        (["a.txt", "some"], {}, "held-out part"),
        (["d.jsonl.gz"], {}, "held-out part"),
        (["e.parquet"], {}, "held-out part"),
        (["latin.txt"], {"reading": Reading("latin-1")}, "held-out tenth"),
        (["some"], {"reading": Reading(raw=True)}, "held-out part"),
    ],
)
def test_a_text_is_found_again(texts: Path, tmp_path: Path, data: list[str], more: dict[str, Any], part: str) -> None:
    """Files of every kind, folders and encodings: train.json says all that is needed."""
    started(tmp_path / "run", [str(texts / name) for name in data], **more)
    found_again(tmp_path / "run", part)


def test_another_text_to_validate_with(texts: Path, tmp_path: Path) -> None:
    """All of --data is trained on, all of --val-data is held out; both are known again, wherever they lie."""
    data, val = str(texts / "a.txt"), texts / "val.txt"
    with run.start(on_streams(), tmp_path / "run", SHORT, [data], val_data=[str(val)]) as running:
        assert (len(running.dataset.train), len(running.dataset.validation)) == (9_000, 1_000)  # type: ignore[arg-type]
        list(running.events())
    part = "all, and the model was trained on all of it"
    assert evaluate_text(tmp_path / "run", [data], "numpy").part == part
    assert evaluate_text(tmp_path / "run", [str(val)], "numpy").part == "all"
    content = val.read_text()
    val.write_text(content + "a")
    assert text_at_hand(tmp_path / "run") is None
    with pytest.raises(TinyLMError, match=r"was validated on another text than .*val\.txt is now; say with --val-data"):
        resume(tmp_path / "run", steps=8)
    val.unlink()
    with pytest.raises(
        TinyLMError, match=r"the text it is validated with, '.*val\.txt', is not here; give a text with --val"
    ):
        resume(tmp_path / "run", steps=8)
    (texts / "elsewhere.txt").write_text(content)
    with resumption.resume(on_streams(), tmp_path / "run", {"steps": 6}, val_data=[str(texts / "elsewhere.txt")]):
        pass
    found_again(tmp_path / "run", f"text held out for it, {texts / 'elsewhere.txt'}")


def test_a_run_keeps_what_it_is_validated_with(texts: Path, tmp_path: Path) -> None:
    """A run that holds out a part of its text does not go on with another measure."""
    started(tmp_path / "run", [str(texts / "a.txt")])
    with pytest.raises(TinyLMError, match="was validated on a part of its own text, which cannot change on --resume"):
        resumption.resume(on_streams(), tmp_path / "run", {}, val_data=[str(texts / "val.txt")]).__enter__()


def test_pipes_beside_files(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came through a pipe is kept byte for byte, and what lies in files is not copied."""
    with open(texts / "some" / "b.txt", "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        started(tmp_path / "run", ["-", str(texts / "d.jsonl.gz")])
    monkeypatch.setattr("sys.stdin", None)
    assert (tmp_path / "run" / "text.txt").read_bytes() == (texts / "some" / "b.txt").read_bytes()
    record = RunRecord.read(tmp_path / "run")
    assert record.data == ("text.txt", str(texts / "d.jsonl.gz"))
    found_again(tmp_path / "run", "held-out part")


def test_a_pipe_to_validate_with(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, too, under a name of its own; standard input is not read twice."""
    with open(texts / "val.txt", "rb") as pipe:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": pipe}))
        with pytest.raises(TinyLMError, match="standard input can be read only once"):
            started(tmp_path / "run", ["-"], val_data=["-"])
        started(tmp_path / "run", [str(texts / "a.txt")], val_data=["-"])
    monkeypatch.setattr("sys.stdin", None)
    found_again(tmp_path / "run", f"text held out for it, {tmp_path / 'moved' / 'val-text.txt'}")


def test_an_address(server: str, texts: Path, tmp_path: Path, own_cache: Path) -> None:
    """A text at an address is found in the cache, and fetched again where it is not; another one there is refused."""
    started(tmp_path / "run", [f"{server}/d.jsonl.gz"])
    assert RunRecord.read(tmp_path / "run").data == (f"{server}/d.jsonl.gz",)
    assert text_at_hand(tmp_path / "run") is not None
    shutil.rmtree(own_cache / "texts")
    assert text_at_hand(tmp_path / "run") is None  # nothing is fetched
    found_again(tmp_path / "run", "held-out part")
    shutil.rmtree(own_cache / "texts")
    (texts / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text": "another"}\n' * 300))
    with pytest.raises(TinyLMError, match=r"jsonl\.gz: has changed since the model in .* was trained on it"):
        evaluate_text(tmp_path / "moved", [], "numpy")


def test_runs_from_before_texts_were_documents(texts: Path, tmp_path: Path) -> None:
    """A train.json without a word on reading is that of files that were joined, every byte kept; it goes on so."""
    data = [str(texts / "some"), str(texts / "a.txt")]
    started(tmp_path / "run", data, reading=BEFORE)
    started(tmp_path / "whole", data, dataclasses.replace(PLAIN, steps=8), reading=BEFORE)
    raw = RunRecord.read(tmp_path / "run").to_json()
    for key in ("reading", "val_data", "val_corpus"):
        del raw[key]
    (tmp_path / "run" / "train.json").write_text(sealed(raw))
    report = evaluate_text(tmp_path / "run", data, "numpy")
    assert report.part == "held-out tenth, as the model was trained on the rest"
    resume(tmp_path / "run", steps=8)
    same_run(tmp_path / "run", tmp_path / "whole")
    found_again(tmp_path / "run", "held-out tenth")
