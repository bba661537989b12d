"""One request: who asks, for what, and the answer as it comes; guard.py has the rules, api.py the answers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import socket
import time
import traceback
from collections.abc import Generator, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.guard import HEADERS, RefusedError
from mlx_tinylm.inside.model_thread import UnwantedError
from mlx_tinylm.inside.page_files import page_files

if TYPE_CHECKING:
    from mlx_tinylm.inside.api import Line
    from mlx_tinylm.inside.server import Server

READ = 10  # seconds for a whole request to arrive
WRITE = 10  # seconds for a client to take what it was sent
STREAM = 300  # seconds that a long answer may go on
TURN = 0.015  # seconds of the model thread for one stream, then others have theirs
STREAMS = 4  # long answers at once
DRAINED = 1 << 16  # bytes of a refused body that are read, so that the answer is not lost with the connection
UNEXPECTED = "something went wrong inside"


class Deadline(io.RawIOBase):
    """Bytes from a socket, which must all arrive within so many seconds, however slowly they trickle."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection = connection
        self.until = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    begun = False  # whether an answer has begun

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(Deadline(self.connection, READ))

    def parse_request(self) -> bool:
        """Check who asks before what is asked."""
        if not super().parse_request():
            return False
        self.close_connection = True
        try:
            self.server.guard.check_sender(self.headers)
        except RefusedError as error:
            self.refuse(error)
            return False
        return True

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":
            return self.answer(HTTPStatus.NO_CONTENT, b"", "image/x-icon")
        file = page_files().get(self.path)
        if file is None:
            return self.refuse(RefusedError(HTTPStatus.NOT_FOUND, "there is no such page"))
        packs = "gzip" in re.findall(r"[\w*]+", ", ".join(self.headers.get_all("Accept-Encoding") or []))
        self.answer(HTTPStatus.OK, file.packed() if packs else file.read(), file.type, packed=packs)

    def do_POST(self) -> None:
        try:
            length = self.server.guard.check_post(self.headers)
            body = self.rfile.read(length)
            if len(body) == length:  # otherwise the client has left
                self.ask(self.path, body)
        except TimeoutError:
            self.refuse(RefusedError(HTTPStatus.REQUEST_TIMEOUT, f"a request has {READ} seconds to arrive"))
        except RefusedError as error:
            self.refuse(error)

    def ask(self, path: str, body: bytes) -> None:
        """Let the model thread answer a whole request, and hand on what it says."""
        try:
            found = self.server.model.run(lambda api: api.answer(path, body), self.is_wanted)
            if isinstance(found, Generator):
                found = self.pass_on(found)
            if isinstance(found, bytes):
                self.answer(HTTPStatus.OK, found, "application/octet-stream")
            elif found is not None:
                self.answer(HTTPStatus.OK, as_json(found), "application/json")
        except RefusedError:
            raise
        except (UnwantedError, ConnectionError, TimeoutError):
            pass  # the client has left, or takes nothing more: its work ends here
        except TinyLMError as error:
            self.fail(HTTPStatus.BAD_REQUEST, str(error))
        except LookupError as error:
            self.fail(HTTPStatus.NOT_FOUND, str(error))
        except MemoryError:
            self.fail(HTTPStatus.INTERNAL_SERVER_ERROR, "not enough memory for this; a shorter text needs less")
        except Exception as error:
            if self.server.debug:
                traceback.print_exc()
            self.fail(HTTPStatus.INTERNAL_SERVER_ERROR, f"{UNEXPECTED} ({type(error).__name__})")

    def pass_on(self, work: Generator[Line | None, None, Any]) -> Any:
        """Send the lines of a long answer as they come, and return what is left to say at the end."""
        with contextlib.closing(work), self.one_of_few():
            until = time.monotonic() + STREAM
            while time.monotonic() < until:
                lines, end = self.server.model.run(lambda _: a_turn(work), self.is_wanted)
                if lines:
                    self.send_lines(lines)
                if isinstance(end, StopIteration):
                    return end.value
                if end is not None:
                    raise end
            self.send_lines([{"done": "time"}])

    @contextlib.contextmanager
    def one_of_few(self) -> Iterator[None]:
        if not self.server.streams.acquire(blocking=False):
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, f"{STREAMS} long answers are under way; wait for one of them, or stop it"
            )
        try:
            yield
        finally:
            self.server.streams.release()

    def is_wanted(self) -> bool:
        """Whether the client is still there: one that has left can be read from, and there is nothing."""
        try:
            if not select.select([self.connection], [], [], 0)[0]:
                return True
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except (OSError, ValueError):
            return False

    # What is sent

    def answer(self, status: HTTPStatus, content: bytes, kind: str, packed: bool = False) -> None:
        self.head(status, kind, len(content), packed)
        self.wfile.write(content)

    def send_lines(self, lines: list[Line]) -> None:
        if not self.begun:
            self.head(HTTPStatus.OK, "application/x-ndjson", None)
        self.wfile.write(b"".join(as_json(line) + b"\n" for line in lines))

    def fail(self, status: HTTPStatus, why: str) -> None:
        """Say what went wrong; as the last line of what is being streamed, if it is."""
        with contextlib.suppress(OSError):
            if self.begun:
                self.send_lines([{"error": why}])
            else:
                self.answer(status, as_json({"error": why}), "application/json")

    def refuse(self, error: RefusedError) -> None:
        self.fail(error.status, str(error))
        with contextlib.suppress(OSError):  # to close with something unread would throw the answer away
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(0.5)
            left = DRAINED
            while left > 0 and (read := len(self.connection.recv(left))):
                left -= read

    def head(self, status: HTTPStatus, kind: str, length: int | None, packed: bool = False) -> None:
        self.begun = True
        self.connection.settimeout(WRITE)
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Connection", "close")
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: a method that is not known, a request that is none."""
        self.close_connection = True
        self.refuse(RefusedError(HTTPStatus(code), HTTPStatus(code).phrase.lower()))

    def handle_expect_100(self) -> bool:
        return True  # nothing is said before the request has been checked

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def a_turn(work: Generator[Line | None, None, Any]) -> tuple[list[Line], Exception | None]:
    """What a long answer says in a moment, and how it ended, if it came to that."""
    lines: list[Line] = []
    until = time.monotonic() + TURN
    while not lines or time.monotonic() < until:
        try:
            line = next(work)
        except Exception as end:  # StopIteration, or what went wrong: the lines before it count all the same
            return lines, end
        if line is None:  # it has done a part
            break
        lines.append(line)
    return lines, None


def as_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
