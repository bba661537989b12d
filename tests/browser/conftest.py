"""A real Chromium, and the program's own page in it.

    pip install '.[browser]', and a Chromium: `apt install chromium`, or `playwright install chromium`

Without them these tests are skipped by name; MLX_TINYLM_TEST_BROWSER=1 makes that a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

import mlx_tinylm
from mlx_tinylm.text.corpus import open_named
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS, is_kept

ROOT = Path(mlx_tinylm.__file__).parents[1]
PROGRAM = [sys.executable, "-m", "mlx_tinylm"]
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/#(\S+)")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TEXT = "".join(f"Line {i} says that {i} and {i * 7 % 10} are {i * 7 % 10 + i}.\n" for i in range(400))


def missing(what: str) -> NoReturn:
    """Skip, or fail where the tests in a browser are asked for."""
    reason = f"{what}: see tests/browser/conftest.py"
    if os.environ.get("MLX_TINYLM_TEST_BROWSER") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A playwright Browser."""
    if importlib.util.find_spec("playwright") is None:
        missing("needs playwright")
    from playwright.sync_api import Error, sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        # Not in a sandbox where that would need rights that a container has not: all that it opens is ours.
        try:
            started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error:
            if path is None:
                missing("needs a Chromium")
            raise
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script that finds what shuts people out (axe-core), for page.evaluate."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        missing("needs axe-playwright-python")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def training_text() -> str:
    """The text that the model which ships was trained on."""
    if not is_kept(DEFAULT_CORPUS):
        missing(f"needs the training text, mlx-tinylm data {DEFAULT_CORPUS}")
    return open_named(DEFAULT_CORPUS).text()


@dataclass(frozen=True)
class Play:
    """`mlx-tinylm play`, started."""

    address: str
    port: int
    token: str
    process: subprocess.Popen[str]

    def stop(self) -> int:
        """Press Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextlib.contextmanager
def started(*arguments: object, cwd: Path = ROOT) -> Iterator[Play]:
    """`mlx-tinylm play` with some arguments, until the end of the context."""
    given = [*PROGRAM, "play", "--no-open", *map(str, arguments)]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True, cwd=cwd, env=around) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            found = ADDRESS.fullmatch(line.strip())
            assert found, line
            yield Play(found[0], int(found[1]), found[2], process)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def play() -> Iterator[Play]:
    """The page of the model that ships."""
    with started(ROOT / "weights" / "shakespeare") as page:
        yield page


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, with its history and its text at hand."""
    pytest.importorskip("mlx.core", reason="needs MLX to train", exc_type=ImportError)
    from tiny_runs import PLAIN, train

    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    import dataclasses

    config = dataclasses.replace(PLAIN, layers=2, context=32, steps=60, eval_every=10, history=3)
    train(folder / "small", config, text)
    return folder / "small"


@pytest.fixture(scope="session")
def play_run(run_folder: Path) -> Iterator[Play]:
    """The page of that run."""
    with started(run_folder) as page:
        yield page


@pytest.fixture(scope="session")
def saved(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of that run as a file."""
    path = tmp_path_factory.mktemp("saved") / "page.html"
    given = [*PROGRAM, "play", str(run_folder), "--save", str(path)]
    subprocess.run(given, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120)
    return path


Watched = Callable[..., Any]


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """Opens pages; whatever goes wrong in one, or is asked of anybody else, fails the test in the end.

    `page.requests` are the addresses that were asked for.
    """
    problems: list[str] = []
    pages: list[Any] = []

    def open_page(address: str, **options: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        pages.append(page)
        origin = address.split("#")[0].rstrip("/") if address.startswith("http") else address.split("#")[0]
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("request", lambda request: foreign(request.url, origin))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda said: problems.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(address)
        return page

    def foreign(url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            problems.append(f"asked for {url}")

    yield open_page
    for page in pages:
        page.close()
    assert problems == []
