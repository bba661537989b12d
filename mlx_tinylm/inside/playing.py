"""From model folders to a page that is served, until somebody ends it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_tinylm.inside.model_thread import ModelThread
from mlx_tinylm.inside.server import Server

# All else is imported in the model's thread, meanwhile: the address is there at once.
if TYPE_CHECKING:
    from mlx_tinylm.inside.api import Api

RUNS = Path("weights")
PATIENCE = 0.5  # seconds for a model to open, so that what is wrong with it is said instead of an address


@dataclass(frozen=True)
class Playing:
    """A page that is being served."""

    server: Server
    model: ModelThread[Api]

    @property
    def address(self) -> str:
        return self.server.address

    def wait(self) -> None:
        """Return when the model cannot be opened, which is raised; otherwise never."""
        self.model.opened.result()
        threading.Event().wait()


def opened(weights: Sequence[Path], backend: str) -> Api:
    """The answers about the first of some model folders, or the one that ships; raises TinyLMError as `load` does."""
    from mlx_tinylm.inside.api import Api
    from mlx_tinylm.inside.collection import Collection
    from mlx_tinylm.inside.subject import Subject
    from mlx_tinylm.model_folder.folder import shipped_weights

    return Api(Collection(Subject.open(weights[0] if weights else shipped_weights(), backend), runs_of(weights)))


def runs_of(weights: Sequence[Path]) -> list[Path]:
    """The folders that hold a run, of those that are given or, without any, in weights/."""
    from mlx_tinylm.errors import TinyLMError
    from mlx_tinylm.run_folder.runs import find_run, find_runs

    if weights:
        return [folder for folder in dict.fromkeys(weights) if find_run(folder) is not None]
    with contextlib.suppress(TinyLMError):
        return [run.folder for run in find_runs(RUNS)]
    return []


@contextlib.contextmanager
def playing(weights: Sequence[Path], backend: str, port: int, debug: bool = False) -> Iterator[Playing]:
    """Serve the page while the context lasts; raises TinyLMError where a model cannot be opened, or the port is in use.

    A large model is still being opened when this has begun.
    """
    model = ModelThread(lambda: opened(weights, backend))
    with contextlib.ExitStack() as stack:
        stack.callback(model.close)
        server = stack.enter_context(Server(port, model, debug))
        with contextlib.suppress(TimeoutError):
            model.opened.result(PATIENCE)
        threading.Thread(target=server.serve_forever, args=(0.05,), name="server", daemon=True).start()
        stack.callback(server.shutdown)
        yield Playing(server, model)


def save_play(path: Path, weights: Sequence[Path], backend: str) -> int:
    """Write the page that `playing` would open with as one file, as `save_page` does."""
    from mlx_tinylm.inside.saved_page import check_free, save_page

    check_free(path)
    api = opened(weights, backend)
    subject = api.subject
    ids = subject.encode(api.prompt)
    return save_page(path, subject, subject.look(ids), api.collection.folders.values())
