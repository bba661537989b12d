"""The server, asked through a bare socket: who is answered, who is not, and what is left when a client leaves."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside import handler
from mlx_tinylm.inside.api import Api
from mlx_tinylm.inside.guard import BODY
from mlx_tinylm.inside.handler import STREAMS
from mlx_tinylm.inside.model_thread import ModelThread
from mlx_tinylm.inside.page_files import page_files
from mlx_tinylm.inside.server import CONNECTIONS, Server

PROMPT = "1+2 = 3; 4+5 = 9"
LONG = {"text": PROMPT, "tokens": 2000, "settings": {"temperature": 1.5}, "seed": 1}


# Who asks


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "localhost:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil.example"]
)
@pytest.mark.parametrize("path", ["/", "/api/model", "/nothing"])
def test_another_host_is_answered_before_anything_else(site: Any, host: str | None, path: str) -> None:
    """Whatever is asked for, and with the right token: under any other name, as by DNS rebinding, nothing is told."""
    port = str(site.server.server_address[1])
    name = host and host.replace("{port}", port)
    for reply in (site.post(path, Host=name), site.send(site.request("GET", path, b"", {"Host": name}))):
        assert (reply.status, reply.error) == (421, "this is not the host that was asked for")


def test_two_hosts_are_none(site: Any) -> None:
    """A second Host is refused, whatever the first one is."""
    request = f"GET / HTTP/1.1\r\nHost: {site.host}\r\nHost: {site.host}\r\n\r\n"
    assert site.send(request.encode()).status == 421


def test_methods_of_another_host_are_not_told_either(site: Any) -> None:
    """The Host is looked at before the method."""
    assert site.send(site.request("DELETE", "/", b"", {"Host": "evil.example"})).status == 421
    assert site.send(site.request("DELETE", "/", b"", {"Host": site.host})).status == 501


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:{port}"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "anything"},
    ],
)
def test_other_pages_are_refused(site: Any, headers: dict[str, str]) -> None:
    """A request that a browser says to come from another page is refused, with the right token too, and for files."""
    port = str(site.server.server_address[1])
    given = {name: value.replace("{port}", port) for name, value in headers.items()}
    assert site.post("/api/model", **given).status == 403
    assert site.get("/", **given).status == 403


def test_its_own_page_is_answered(site: Any) -> None:
    """What the page's own browser sends is answered; so is a program that sends neither Origin nor Sec-Fetch-Site."""
    own = {"Origin": f"http://{site.host}", "Sec_Fetch_Site": "same-origin"}
    assert site.post("/api/model", **own).status == 200
    assert site.post("/api/model").status == 200
    assert site.get("/", Sec_Fetch_Site="none").status == 200


# With which token


@pytest.mark.parametrize("token", [None, "", "wrong", "{token}x", "x{token}", " ", "é"])
def test_without_the_token_nothing_is_told(site: Any, token: str | None) -> None:
    """No token, a wrong one, and one that is too long or too short are refused alike."""
    reply = site.post("/api/model", X_Token=token and token.replace("{token}", site.token))
    assert (reply.status, reply.error[:9]) == (403, "the token")


def test_two_tokens_are_none(site: Any) -> None:
    """Halves of a token in two headers, or the right one twice, are not put together."""
    head, tail = site.token[:9], site.token[9:]
    for first, second in ((head, tail), (site.token, site.token)):
        request = site.posted("/api/model", X_Token=first).replace(
            b"\r\n\r\n", f"\r\nX-Token: {second}\r\n\r\n".encode()
        )
        assert site.send(request).status == 403


def test_tokens_are_long_and_new_each_time(api: Api) -> None:
    """A token has 256 bits, another one for each server, and is in neither the path nor the query of the address."""
    model = ModelThread(lambda: api)
    with Server(0, model) as one, Server(0, model) as other:
        assert one.guard.token != other.guard.token
        assert re.fullmatch(rf"http://127\.0\.0\.1:{one.server_address[1]}/#[\w-]{{43}}", one.address)
        assert one.guard.token not in repr(one.guard)
    model.close()


def test_nothing_is_logged(site: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is asked, and however it fails, nothing is printed."""
    site.post("/api/model")
    site.post("/api/trace", {"text": 1})
    site.get("/nothing")
    site.send(b"nonsense\r\n\r\n")
    site.send(b"GET / HTTP/9.9\r\n\r\n")
    site.connect().close()
    time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


# What is asked


def test_only_this_machine_is_listened_to(site: Any) -> None:
    """The server is bound to 127.0.0.1, and to no other address."""
    assert site.server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "get"])
def test_other_methods_are_refused(site: Any, method: str) -> None:
    """Only GET and POST are known; OPTIONS, too, which asks for other sites, gets no permission."""
    reply = site.send(site.request(method, "/", b"", {"Host": site.host}))
    assert reply.status == 501
    assert not any(name.startswith("access-control") for name in reply.headers)


def test_get_changes_and_computes_nothing(site: Any) -> None:
    """What is asked of the model cannot be asked with GET, nor a file with POST."""
    assert site.get("/api/model").status == 404
    assert site.post("/").status == 404


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/x", "//etc/passwd", "/views", "/views/", "/x.py", "/?", "/index.html?x"]
)
def test_only_files_of_the_table_are_served(site: Any, path: str) -> None:
    """An address that is not one of the page's files is none, whatever lies where it seems to point."""
    assert site.get(path).status == 404
    assert site.get(f"http://{site.host}{path}").status == 404


def test_the_files_of_the_page(site: Any) -> None:
    """Every file of the page comes with its type, packed for those who take it packed."""
    import gzip

    assert {"/", "/index.html", "/main.js", "/page.css"} <= page_files().keys()
    for path, file in page_files().items():
        plain, packed = site.get(path), site.get(path, Accept_Encoding="br, gzip;q=0.5")
        assert (plain.status, plain.headers["content-type"]) == (200, file.type)
        assert plain.body == file.read() == gzip.decompress(packed.body)
        assert packed.headers["content-encoding"] == "gzip"


def test_every_answer_has_the_headers_that_protect_it(site: Any) -> None:
    """Files, answers, streams and refusals alike say what may be done with them, and not what serves them."""
    replies = [
        site.get("/"),
        site.get("/none"),
        site.post("/api/model"),
        site.post("/api/none"),
        site.post("/api/trace"),
    ]
    replies += [site.post("/api/write", {"text": PROMPT, "tokens": 3}), site.post("/api/model", Host="evil.example")]
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cache-control"] == "no-store"
        assert not {"server", "access-control-allow-origin", "set-cookie"} & reply.headers.keys()


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bodies_must_be_json_by_their_type(site: Any, kind: str | None) -> None:
    """A type that a form on another page could send is refused, before the body is looked at."""
    assert site.post("/api/model", Content_Type=kind).status == 415


def test_the_type_may_name_its_encoding(site: Any) -> None:
    """`application/json; charset=utf-8` is JSON."""
    assert site.post("/api/model", Content_Type="application/json; charset=utf-8").status == 200


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (None, 411),
        ("", 400),
        ("-1", 400),
        ("1.5", 400),
        ("0x10", 400),
        ("²", 400),
        (str(BODY + 1), 413),
        ("9" * 40, 413),
    ],
)
def test_lengths_that_are_none(site: Any, length: str | None, status: int) -> None:
    """A body must say how long it is, and may not be longer than is ever needed; it is not waited for."""
    begun = time.monotonic()
    reply = site.post("/api/model", Content_Length=length)
    assert reply.status == status
    assert time.monotonic() - begun < 5


def test_a_body_in_chunks_is_refused(site: Any) -> None:
    """Two ways to say where a body ends would be one too many."""
    assert site.post("/api/model", Transfer_Encoding="chunked").status == 411


def test_an_oversized_body_gets_its_answer(site: Any) -> None:
    """Whoever sends too much is told so, though nobody reads it."""
    reply = site.post("/api/trace", b"x" * (BODY + 1))
    assert (reply.status, reply.error) == (413, f"a request has at most {BODY:,} bytes")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"1", b"\xff", b"[" * 100_000, b'{"text": NaN}'])
def test_bodies_that_are_no_request(site: Any, body: bytes) -> None:
    """What is no JSON object is an error in a line."""
    reply = site.post("/api/trace", body)
    assert reply.status == 400
    assert reply.error.count("\n") == 0


# How long


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_slow_request_is_ended(site: Any, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that trickles in byte by byte has as long as any other, not as long for each byte."""
    monkeypatch.setattr(handler, "READ", 0.6)
    whole = site.posted("/api/model", b"{" + b" " * 500 + b"}")
    head, _, body = whole.partition(b"\r\n\r\n")
    at_once, slowly = (b"", head) if part == "head" else (head + b"\r\n\r\n", body)
    with site.connect() as connection:
        connection.sendall(at_once)
        begun = time.monotonic()
        connection.settimeout(0.05)
        reply = None
        for byte in slowly:
            try:
                connection.sendall(bytes([byte]))
                reply = connection.recv(1 << 16)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.3 < time.monotonic() - begun < 5
        assert not reply or b" 408 " in reply.partition(b"\r\n")[0]


def test_a_client_that_says_nothing_is_let_go(
    site: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A connection without a request is closed, and nothing is said of it."""
    monkeypatch.setattr(handler, "READ", 0.3)
    with site.connect() as connection:
        assert connection.recv(1) == b""
    assert capfd.readouterr() == ("", "")


def test_more_connections_than_there_is_room_for(site: Any) -> None:
    """Beyond a number of connections new ones are closed at once, and when they go there is room again."""
    held = [site.connect() for _ in range(CONNECTIONS)]
    time.sleep(0.3)
    with site.connect() as one_more:
        assert one_more.recv(1) == b""
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 10
    while site.get("/").status != 200:
        assert time.monotonic() < deadline


# Streams


def lines_of(connection: socket.socket) -> Iterator[dict[str, Any]]:
    file = connection.makefile("rb")
    while file.readline().strip():
        pass
    yield from map(json.loads, file)


def begin(site: Any, **more: Any) -> socket.socket:
    """A stream whose first line has come."""
    connection: socket.socket = site.connect()
    connection.sendall(site.posted("/api/write", LONG | more))
    next(lines_of(connection))
    return connection


def test_writing_comes_line_by_line(site: Any) -> None:
    """Lines arrive before the last one is written, and their number is what was asked for."""
    with site.connect() as connection:
        connection.sendall(site.posted("/api/write", LONG | {"tokens": 300}))
        arrivals = [(time.monotonic(), line) for line in lines_of(connection)]
    lines = [line for _, line in arrivals]
    assert lines[-1] in ({"done": "length"}, {"done": "end"})
    assert len(lines) <= 301
    assert arrivals[0][0] < arrivals[-1][0]


def began(site: Any) -> bytes:
    """What an answer to one more stream begins with."""
    with site.connect() as connection:
        connection.sendall(site.posted("/api/write", LONG))
        return bytes(connection.recv(12))


class Waiting(Api):
    """Writes without an end, and says when it is ended."""

    def answer(self, path: str, body: bytes) -> Any:
        if path != "/api/write":
            return super().answer(path, body)
        self.ended = threading.Event()
        return self.forever()

    def forever(self) -> Iterator[dict[str, Any]]:
        try:
            while True:
                time.sleep(0.001)
                yield {"text": "x" * 1000}
        finally:
            self.ended.set()


@pytest.fixture
def api(subject: Any, request: pytest.FixtureRequest) -> Api:
    from mlx_tinylm.inside.collection import Collection

    return getattr(request, "param", Api)(Collection(subject))


endless = pytest.mark.parametrize("api", [Waiting], indirect=True)


@endless
def test_a_client_that_leaves_ends_its_generation(site: Any, api: Waiting) -> None:
    """Whoever closes the connection has stopped the model, too."""
    begin(site).close()
    assert api.ended.wait(10)


@endless
def test_a_client_that_reads_nothing_ends_its_generation(
    site: Any, api: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is written on for somebody who takes nothing any more."""
    monkeypatch.setattr(handler, "WRITE", 0.3)
    with begin(site):
        assert api.ended.wait(30)


@endless
def test_no_stream_is_endless(site: Any, api: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time a stream ends, and says why."""
    monkeypatch.setattr(handler, "STREAM", 0.3)
    with site.connect() as connection:
        connection.sendall(site.posted("/api/write", LONG))
        assert list(lines_of(connection))[-1] == {"done": "time"}
    assert api.ended.wait(10)


@endless
def test_open_streams_are_few_and_hold_nobody_up(site: Any, api: Waiting) -> None:
    """While some streams run others are answered in between; one more stream is refused, until one of them ends."""
    held = [begin(site) for _ in range(STREAMS)]
    begun = time.monotonic()
    assert site.post("/api/trace", {"text": PROMPT}).status == 200
    assert time.monotonic() - begun < 5
    assert began(site) == b"HTTP/1.1 429"
    held.pop().close()
    deadline = time.monotonic() + 10
    while began(site) != b"HTTP/1.1 200":
        assert time.monotonic() < deadline
    for connection in held:
        connection.close()


# What goes wrong


class Broken(Api):
    def answer(self, path: str, body: bytes) -> Any:
        if path == "/api/model":
            raise ZeroDivisionError("/somewhere/secret")
        if path == "/api/surprise":
            raise MemoryError
        return self.written() if path == "/api/write" else super().answer(path, body)

    def written(self) -> Iterator[dict[str, Any]]:
        yield {"text": "a"}
        raise TinyLMError("the weights are damaged")


@pytest.mark.parametrize("api", [Broken], indirect=True)
def test_what_goes_wrong_is_a_line(site: Any) -> None:
    """A mistake of this program tells no more than its kind; the server goes on, and a stream ends with the reason."""
    assert (site.post("/api/model").status, site.post("/api/model").error) == (
        500,
        "something went wrong inside (ZeroDivisionError)",
    )
    assert site.post("/api/surprise", {"text": "x"}).error.startswith("not enough memory")
    lines = site.post("/api/write", {"text": "x"}).body.splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "a"}, {"error": "the weights are damaged"}]
    assert site.post("/api/trace", {"text": PROMPT}).status == 200


def test_a_port_in_use_is_a_line(site: Any, api: Api) -> None:
    """Two servers cannot have one port; the second one says what helps."""
    model = ModelThread(lambda: api)
    port = site.server.server_address[1]
    with pytest.raises(TinyLMError, match=rf"^port {port} is in use: choose another --port, or leave it out"):
        Server(port, model)
    model.close()


def test_a_port_is_free_again_at_once(api: Api) -> None:
    """A server that has answered and ended leaves its port to the next one."""
    port = 0
    for _ in range(3):
        model = ModelThread(lambda: api)
        with Server(port, model) as server:
            port = server.server_address[1]
            threading.Thread(target=server.handle_request).start()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert (
                    connection.makefile("rb").read().startswith(b"HTTP/1.1 200")
                )  # to its end: the server closes first
        model.close()
