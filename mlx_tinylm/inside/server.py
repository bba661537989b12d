"""The page and its answers on 127.0.0.1, for one reader."""

from __future__ import annotations

import errno
import os
import socketserver
import sys
import threading
import traceback
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.guard import Guard
from mlx_tinylm.inside.handler import STREAMS, Handler
from mlx_tinylm.inside.model_thread import ModelThread

if TYPE_CHECKING:
    from mlx_tinylm.inside.api import Api

ADDRESS = "127.0.0.1"
CONNECTIONS = 32


class Server(ThreadingHTTPServer):
    """Binds at once; `api` is opened meanwhile, in the thread in which it will work."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"  # there it would let two programs have one port
    request_queue_size = CONNECTIONS

    def __init__(self, port: int, model: ModelThread[Api], debug: bool = False) -> None:
        """Raises TinyLMError where the port is in use; port 0 is any that is free."""
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            taken = f"port {port} is in use: choose another --port, or leave it out for any that is free"
            refused = f"port {port} cannot be opened ({error.strerror}); choose another --port"
            raise TinyLMError(taken if error.errno == errno.EADDRINUSE else refused) from None
        self.model = model
        self.debug = debug
        self.guard = Guard(f"{ADDRESS}:{self.server_address[1]}")
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        self.streams = threading.BoundedSemaphore(STREAMS)

    @property
    def address(self) -> str:
        """What to open in a browser; the token stands in the fragment, which browsers send to nobody."""
        return f"http://{self.guard.host}/#{self.guard.token}"

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without asking a name server who 127.0.0.1 is

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if self.debug and not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()
