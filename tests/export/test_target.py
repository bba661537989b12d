"""Where `export` may write: `--force` replaces an earlier export, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import random_folder
from tiny_models import GPT2, with_run

from mlx_tinylm.cli.main import main
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.export.model_card import sealed_card


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return random_folder(tmp_path / "source", GPT2)


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    """An earlier export."""
    return export(source, tmp_path / "out").folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_replaced(source: Path, out: Path) -> None:
    """All that an earlier export wrote gives way, and what else lies there stays, without --force nothing does."""
    (out / "notes.txt").write_text("mine")
    (out / "model.gguf").write_text("of an earlier export")
    text = "".join((out / "README.md").read_text().splitlines(keepends=True)[:-1])
    (out / "README.md").write_text(sealed_card(text, [*contents(out), "model.gguf"]))
    (out / "pictures").mkdir()
    before = contents(out)
    with pytest.raises(TinyLMError, match=r"out: has something in it already \(README.md, .*add --force if"):
        export(source, out, dtype="float16")
    assert contents(out) == before
    export(source, out, dtype="float16", force=True)
    after = contents(out)
    assert before.keys() - after.keys() == {"model.gguf"}
    assert after["notes.txt"] == b"mine"
    assert (out / "pictures").is_dir()
    assert len(after["model.safetensors"]) < len(before["model.safetensors"])
    export(source, out, force=True)  # an export it is still


def test_where_nothing_is_replaced(source: Path, tmp_path: Path) -> None:
    """With --force a folder of other files, as a disk's own, takes an export beside them."""
    (tmp_path / "disk" / "lost+found").mkdir(parents=True)
    with pytest.raises(TinyLMError, match=r"disk: has something in it already \(lost\+found\)"):
        export(source, tmp_path / "disk")
    export(source, tmp_path / "disk", force=True)
    assert (tmp_path / "disk" / "lost+found").is_dir()


def edited(out: Path) -> None:
    with open(out / "README.md", "a") as card:
        card.write("My own words.\n")


MINE: dict[str, tuple[Callable[[Path], object], str]] = {
    "my README": (lambda out: (out / "README.md").write_text("# My book\n"), "its README.md is not one that export"),
    "an edited card": (edited, "its README.md is not one that export wrote, or was edited since"),
    "no card": (lambda out: (out / "README.md").unlink(), "has no README.md that export wrote"),
    "a link to nowhere": (
        lambda out: ((out / "README.md").unlink(), (out / "README.md").symlink_to("nowhere")),
        "its README.md is not one that export wrote",
    ),
    "a GGUF of mine": (
        lambda out: (out / "model.gguf").write_text("mine"),
        "model.gguf was not written by the export there and is kept",
    ),
    "a run": (with_run, r"holds a training run \(train\.json\)"),
    "a folder": (lambda out: (out / "model.gguf").mkdir(), "model.gguf is a folder, which no export made"),
}


@pytest.mark.parametrize(("change", "message"), MINE.values(), ids=MINE)
def test_what_is_mine(source: Path, out: Path, change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    """What no export wrote, or somebody changed since, is never replaced: one line says why and what to do."""
    change(out)
    before = contents(out)
    done = CliRunner().invoke(main, ["export", str(source), "--out", str(out), "--force"])
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert re.match(rf"Error: {out}: {message}.*; choose another --out", line)
    if "README" in message:
        assert "or move " in line
        assert "config.json, generation_config.json, model.safetensors" in line
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("force", [False, True])
def test_never_the_source(source: Path, out: Path, force: bool, tmp_path: Path) -> None:
    """A model is never replaced by its own export: under another name, through links, or where its files are links."""
    links = tmp_path / "links"
    links.mkdir()
    for path in out.iterdir():
        (links / path.name).symlink_to(path)
    (tmp_path / "link").symlink_to(out)
    before = contents(out)
    pairs = ((out, out), (out, tmp_path / "source" / ".." / "out"), (tmp_path / "link", out), (out, tmp_path / "link"))
    for weights, target in (*pairs, (links, out), (links, links)):
        with pytest.raises(
            TinyLMError, match=rf"^{target}: is where the model to export lies.*; choose another --out$"
        ):
            export(weights, target, force=force)
    assert contents(out) == before
    shutil.copytree(out, out / "inside")
    export(out / "inside", out, dtype="float16", force=True)  # what lies beside the files of an export is not replaced
    assert contents(out / "inside") == before


def test_a_name_that_cannot_be(source: Path, tmp_path: Path) -> None:
    """A path that the system refuses is an error that names it, not a traceback."""
    with pytest.raises(TinyLMError, match=rf"^{tmp_path}/n+: cannot be used \({os.strerror(36)}\); choose another"):
        export(source, tmp_path / ("n" * 300))
