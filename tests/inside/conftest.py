"""A small model behind its page's server, in this process."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import random_folder

from mlx_tinylm.inside.api import Api
from mlx_tinylm.inside.collection import Collection
from mlx_tinylm.inside.model_thread import ModelThread
from mlx_tinylm.inside.server import Server
from mlx_tinylm.inside.subject import Subject
from mlx_tinylm.model_folder.config import Qwen3Config

CONFIG = Qwen3Config(
    vocab_size=40, context=32, width=16, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20, eos_ids=(39,)
)
PROMPT = "1+2 = 3; 4+5 = 9"


@dataclass
class Reply:
    """What came back, byte by byte."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])


@dataclass
class Site:
    """A server that runs, and what a client may send it."""

    server: Server

    @property
    def host(self) -> str:
        return self.server.guard.host

    @property
    def token(self) -> str:
        return self.server.guard.token

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.server_address[:2], timeout=20)

    def send(self, request: bytes) -> Reply:
        """Send bytes as they are, and read to the end."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_reply(connection)

    def get(self, path: str, **headers: str) -> Reply:
        return self.send(self.request("GET", path, b"", {"Host": self.host} | named(headers)))

    def post(self, path: str, content: object = None, **headers: str | None) -> Reply:
        """A request as the page makes it, but for the given headers; None leaves one out."""
        return self.send(self.posted(path, content, **headers))

    def posted(self, path: str, content: object = None, **headers: str | None) -> bytes:
        body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        usual = {"Host": self.host, "X-Token": self.token, "Content-Type": "application/json"}
        usual["Content-Length"] = str(len(body))
        return self.request("POST", path, body, usual | named(headers))

    @staticmethod
    def request(method: str, path: str, body: bytes, headers: dict[str, Any]) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items() if value is not None),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def named(headers: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def read_reply(connection: socket.socket) -> Reply:
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while block := connection.recv(1 << 16):
            content += block
    if not content.startswith(b"HTTP/"):  # closed, or to one that speaks another language
        return Reply(0, {}, content)
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Reply(int(first.split()[1]), headers, body)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and no run."""
    return random_folder(tmp_path_factory.mktemp("inside") / "small", CONFIG)


@pytest.fixture(scope="session")
def subject(folder: Path) -> Subject:
    return Subject.open(folder, "numpy")


@pytest.fixture
def api(subject: Subject) -> Api:
    return Api(Collection(subject))


@contextlib.contextmanager
def serving(api: Api) -> Iterator[Site]:
    model = ModelThread(lambda: api)
    with Server(0, model) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(server)
        server.shutdown()
        thread.join()
    model.close()


@pytest.fixture
def site(api: Api) -> Iterator[Site]:
    with serving(api) as running:
        yield running
