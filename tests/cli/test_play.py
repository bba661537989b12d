"""`mlx-tinylm play`, as a command of its own: what it prints, how it ends, what it saves."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import EXECUTABLE, environment

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/#([\w-]{43})\n")
WINDOWS = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")


@contextlib.contextmanager
def playing(made: Path, cache: Path, *arguments: object, **variables: str) -> Iterator[tuple[Any, int, str]]:
    """The program, its port and its token."""
    given = [*EXECUTABLE, "play", *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    around = {"DISPLAY": "", "WAYLAND_DISPLAY": "", **variables}
    with subprocess.Popen(given, cwd=made, env=environment(cache, **around), **pipes) as process:  # type: ignore[call-overload]
        try:
            line = process.stdout.readline()
            found = ADDRESS.fullmatch(line)
            assert found, (line, process.stderr.read())
            yield process, int(found[1]), found[2]
        finally:
            process.kill()


def asked(port: int, token: str, name: str, **request: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"X-Token": token, "Content-Type": "application/json"}
    connection.request("POST", f"/api/{name}", json.dumps(request), headers)
    with contextlib.closing(connection):
        return json.loads(connection.getresponse().read())


@WINDOWS
@pytest.mark.parametrize("backend", ["auto", "numpy", "mlx"])
def test_play_until_ctrl_c(made: Path, own_cache: Path, backend: str) -> None:
    """The address comes first; the runs are shown by name; Ctrl-C ends it with nothing more said, and no error."""
    with playing(made, own_cache, "model", "half", "--no-open", "--backend", backend) as (process, port, token):
        found = asked(port, token, "model")
        assert [run["name"] for run in found["runs"]] == ["model", "half"]
        assert found["model"]["name"] == "model"
        if backend != "auto":
            assert found["model"]["backend"] == backend
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert (process.stdout.read(), process.stderr.read()) == ("Ctrl-C ends it.\n", "")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass


@WINDOWS
def test_the_same_port_twice(made: Path, own_cache: Path) -> None:
    """Two at once cannot have one port, which is said in a line; after the first has ended the second may."""
    with playing(made, own_cache, "model", "--no-open") as (process, port, token):
        asked(port, token, "model")
        given = [*EXECUTABLE, "play", "model", "--no-open", "--port", str(port)]
        around = environment(own_cache)
        second = subprocess.run(given, cwd=made, env=around, capture_output=True, text=True, timeout=60)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr == (
            f"Error: port {port} is in use: choose another --port, or leave it out for any that is free\n"
        )
        process.send_signal(signal.SIGINT)
        process.wait(20)
    with playing(made, own_cache, "model", "--no-open", "--port", port) as (_, again, _):
        assert again == port


def test_a_browser_is_opened_unless_told(made: Path, own_cache: Path, tmp_path: Path) -> None:
    """The address goes to the program that opens such things; with --no-open, or without a screen, to none."""
    if sys.platform != "linux":
        pytest.skip("elsewhere no program in the path opens an address")
    opener = tmp_path / "xdg-open"
    opener.write_text(f'#!/bin/sh\necho "$1" >> "{tmp_path}/opened"\n')
    opener.chmod(0o755)
    import os
    import time

    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for arguments, display in ((["--no-open"], ":7"), ([], ""), ([], ":7")):
        with playing(made, own_cache, "model", *arguments, PATH=path, DISPLAY=display) as (_, port, token):
            asked(port, token, "model")
            deadline = time.monotonic() + (10 if display and not arguments else 0.2)
            while not (tmp_path / "opened").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert (tmp_path / "opened").exists() == (display == ":7" and not arguments)
    assert (tmp_path / "opened").read_text() == f"http://127.0.0.1:{port}/#{token}\n"


@pytest.mark.parametrize("folder", ["nowhere", "no-weights", "full"])
def test_what_cannot_be_opened_is_a_line(invoke: Any, folder: str) -> None:
    """Where there is no model, that is said, and no address."""
    done = invoke("play", folder, "--no-open")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {folder}")
    assert done.stderr.count("\n") == 1


def test_options_that_are_none(invoke: Any) -> None:
    """Ports that are none are a usage error."""
    for port in ("0", "65536", "x", "-1"):
        done = invoke("play", "--port", port, "--no-open")
        assert (done.exit_code, done.stdout) == (2, ""), port


def test_save_writes_one_file_and_ends(invoke: Any, tmp_path: Path) -> None:
    """--save needs no server: the page is written with the history of all runs, a second time as well."""
    path = tmp_path / "page.html"
    for _ in range(2):
        done = invoke("play", "model", "half", "--save", path)
        assert (done.exit_code, done.stderr) == (0, "")
        assert re.fullmatch(rf"{re.escape(str(path))}: \d+\.\d MB\. It opens from disk, .*\n", done.stdout)
    html = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="saved">(.*?)</script>', html, re.S)
    assert data
    assert list(json.loads(data[1])["history"]) == ["model", "half"]


def test_save_leaves_what_is_not_its_own(invoke: Any, tmp_path: Path) -> None:
    """A file that this program has not written is not replaced."""
    path = tmp_path / "thesis.html"
    path.write_text("years of work")
    done = invoke("play", "model", "--save", path)
    assert (done.exit_code, path.read_text()) == (1, "years of work")
    assert done.stderr == f"Error: {path}: is there already, and is no page of this program; choose another name\n"


def test_inspect_writes_a_page_too(invoke: Any, tmp_path: Path) -> None:
    """`inspect --html` writes the same page, of its own prompt."""
    path = tmp_path / "page.html"
    done = invoke("inspect", "model", "--prompt", "The", "--html", path)
    assert (done.exit_code, done.stdout) == (0, "")
    assert '"prompt":"The"' in path.read_text(encoding="utf-8")
