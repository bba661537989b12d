"""The page's own folder behind the page's own policy, so that its modules can be tried one by one."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import mlx_tinylm

PAGE = Path(mlx_tinylm.__file__).parent / "inside" / "page"
EMPTY = (
    b"<!doctype html><html lang=en><title>modules</title><link rel=stylesheet href=/pictures.css><body></body></html>"
)
HERE = Path(__file__).parent
CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:"


class Modules(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {".js": "text/javascript", ".css": "text/css"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(PAGE))

    def do_GET(self) -> None:
        if self.path == "/picture_app.js":
            self.directory = str(HERE)
        if self.path not in ("/", "/favicon.ico"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(EMPTY)

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", CSP)
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    """The address of an empty document beside the modules."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Modules) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def run(page: Any, module: str, body: str, *given: Any) -> Any:
    """What `body` returns, with the exports of a module as `m` and plain data as `given`."""
    program = f"async ([path, given]) => {{ const m = await import(path); {body} }}"
    return page.evaluate(program, [f"/{module}", list(given)])
