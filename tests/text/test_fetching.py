"""Files at an address: fetched once, gone on with where they were cut short, kept whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import open_corpus

TEXT = b"".join(b"line %d of a text that is fetched\n" % line for line in range(20_000))
SHA256 = hashlib.sha256(TEXT).hexdigest()


@dataclass
class Server:
    """A server on this machine: what it has, how it behaves, and what it was asked for."""

    content: bytes = TEXT
    etag: str | None = '"one"'
    sends: int | None = None  # bytes of an answer before it hangs up
    ranges: bool = True
    length: bool = True  # whether it says how long an answer is
    asked: list[str | None] = field(default_factory=list)  # the ranges
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        start = 0
        if wanted and self.ranges and handler.headers.get("If-Range") == self.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(len(self.content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        handler.wfile.write(self.content[start:][: self.sends])
        handler.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Iterator[Server]:
    """A server that has TEXT, and a cache of one's own."""
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}/folder/a%20text.txt?download=true"
        yield found
        server.shutdown()


def refusal(server: Server) -> str:
    with pytest.raises(TinyLMError) as caught:
        open_corpus([server.url])
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{server.url}: could not be fetched: ")
    return message.removeprefix(f"{server.url}: could not be fetched: ")


def test_fetched_once(server: Server, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An address is a text of --data; it is fetched once into the cache, where its SHA-256 is recorded."""
    for _ in range(2):
        found = open_corpus([server.url])
        assert (found.name, found.sha256, found.files) == (server.url, SHA256, 1)
    assert server.asked == [None]
    path = found.sources[0]
    assert path.parent == own_cache / "texts"
    assert path.name.endswith("-a_text.txt")
    recorded = json.loads(path.with_name(f".{path.name}.json").read_text())
    assert recorded == {"url": server.url, "bytes": len(TEXT), "sha256": SHA256}
    assert sorted(path.parent.iterdir()) == sorted([path, path.with_name(f".{path.name}.json")])
    assert capsys.readouterr().err == f"fetching {server.url}\n"


def test_a_download_goes_on_where_it_ended(server: Server, own_cache: Path) -> None:
    """A server that ends midway is one line; what came is no text, and the next call asks for the rest alone."""
    server.sends = 100_000
    total = f"{len(TEXT):,}"
    on = "; the same command goes on from there"
    assert refusal(server) == f"the server ended after 100,000 of {total} bytes{on}"
    assert not [path for path in (own_cache / "texts").iterdir() if not path.name.startswith(".")]
    assert refusal(server) == f"the server ended after 200,000 of {total} bytes{on}"
    server.sends = None
    assert open_corpus([server.url]).sha256 == SHA256
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert len(list((own_cache / "texts").iterdir())) == 2


@pytest.mark.parametrize("changed", [b"another text\n" * 30_000, b"short\n", TEXT])
def test_a_file_that_changes_in_between_is_fetched_anew(server: Server, changed: bytes) -> None:
    """Halves of two files are never joined: another ETag, and a server that knows no ranges, begin at the start."""
    server.sends = 100_000
    refusal(server)
    server.content, server.etag, server.sends = changed, '"two"', None
    server.ranges = changed is not TEXT
    found = open_corpus([server.url])
    assert found.sha256 == hashlib.sha256(changed).hexdigest()
    assert found.sources[0].read_bytes() == changed


def test_a_file_that_shrinks_is_fetched_anew(server: Server) -> None:
    """Where there is nothing behind what has come, though the server calls it the same file, all is fetched again."""
    server.sends = 100_000
    refusal(server)
    server.content, server.sends = TEXT[:50_000], None
    assert open_corpus([server.url]).sha256 == hashlib.sha256(TEXT[:50_000]).hexdigest()
    assert server.asked == [None, "bytes=100000-", None]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_what_cannot_be_gone_on_with_is_not_kept(server: Server, own_cache: Path, etag: str | None) -> None:
    """Where nothing tells whether the file is still the same, a half is not kept, and the line says no more."""
    server.sends, server.etag = 100_000, etag
    assert refusal(server) == f"the server ended after 100,000 of {len(TEXT):,} bytes"
    assert list((own_cache / "texts").iterdir()) == []


def test_an_answer_of_unknown_length(server: Server) -> None:
    """A server that does not say how much there is ends where it ends."""
    server.length = False
    assert open_corpus([server.url]).sha256 == SHA256


def test_no_answer_keeps_what_has_come(server: Server) -> None:
    """Where a server has trouble, what came before stays, for the next call."""
    server.sends = 100_000
    refusal(server)
    answer = server.answer
    server.answer = lambda handler: handler.send_error(503)  # type: ignore[method-assign]
    assert refusal(server) == "503 Service Unavailable"
    server.answer, server.sends = answer, None  # type: ignore[method-assign]
    open_corpus([server.url])
    assert server.asked == [None, "bytes=100000-"]


def test_an_empty_answer_and_one_in_lines(server: Server, own_cache: Path) -> None:
    """A file without a byte is not kept, as it would be the text at its address for good; a reason is one line."""
    server.content = b""
    assert refusal(server) == "the server sends an empty file"

    def redirected(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", server.url)
        handler.end_headers()

    server.answer = redirected  # type: ignore[method-assign]
    assert refusal(server).isprintable()
    assert list((own_cache / "texts").iterdir()) == []


def test_not_there(server: Server, own_cache: Path) -> None:
    """An address where nothing is says so in the server's words, and one that is none in ours."""
    server.answer = lambda handler: handler.send_error(404)  # type: ignore[method-assign]
    assert refusal(server) == "404 Not Found"
    server.url = "http://127.0.0.1:port/x"
    assert "port" in refusal(server)
    assert list((own_cache / "texts").iterdir()) == []


@pytest.mark.parametrize("damage", [TEXT[:-1], TEXT[:-1] + b"!"])
def test_a_damaged_copy_is_fetched_again(server: Server, damage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """What has changed in the cache since it was fetched is not read as the text of that address."""
    path = open_corpus([server.url]).sources[0]
    path.write_bytes(damage)
    assert open_corpus([server.url]).sha256 == SHA256
    assert f"{path}: another " in capsys.readouterr().err


def test_packed_records_at_an_address(server: Server) -> None:
    """The name in the address says what kind of file it is."""
    server.url = server.url.replace("a%20text.txt", "stories.jsonl.gz")
    server.content = gzip.compress(b'{"text": "one"}\n{"text": "two"}\n')
    assert open_corpus([server.url]).documents == 2


def test_two_processes_do_not_mix_their_halves(server: Server, own_cache: Path) -> None:
    """While one fetches a file, another does not write into it, and does not take it away."""
    fcntl = pytest.importorskip("fcntl")
    path = open_corpus([server.url]).sources[0]
    path.unlink()
    with open(path.with_name(f".{path.name}.part"), "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refusal(server) == "another process is fetching it; wait for it"
        assert path.with_name(f".{path.name}.part").exists()


def test_no_address() -> None:
    """What begins as an address does and is none is refused in a line."""
    with pytest.raises(TinyLMError, match=r"^'http://\[::1/x': no address \(.*\)\. Check how it is written\.$"):
        open_corpus(["http://[::1/x"])
