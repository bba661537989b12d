"""What an export's difference from its source means: the loss of the text that the model was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import random_folder
from tiny_models import GPT2, with_run

from mlx_tinylm.backend.choose import load
from mlx_tinylm.cli.main import main
from mlx_tinylm.export.folder import export
from mlx_tinylm.integrity import read_sealed, sealed
from mlx_tinylm.text.corpus import open_corpus


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(" !\"#$%&'()*"[number % 7 + number % 5] for number in range(400)))
    return path


@pytest.fixture
def source(tmp_path: Path, text: Path, own_cache: Path) -> Path:
    """A model whose run says that it was trained on the text."""
    return trained_on(with_run(random_folder(tmp_path / "source", GPT2)), text)


def trained_on(folder: Path, text: Path) -> Path:
    corpus = open_corpus([str(text)])
    about = {"name": "my text", "sha256": corpus.sha256, "characters": corpus.characters}
    record = read_sealed(folder / "train.json") | {"data": [str(text)], "corpus": about}
    (folder / "train.json").write_text(sealed(record))
    return folder


def loss_of(folder: Path, text: str) -> float:
    """The mean loss in windows of the context, which is 8, one after the other, by another back end."""
    model, tokenizer = load(folder, "numpy")
    ids = np.array(tokenizer.encode(text))
    found = []
    for start in range(0, len(ids) - 1, 8):
        window = ids[start : start + 9]
        logits = model.logits(window[None, :-1])[0].astype(np.float64)
        chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        found += [-np.log(chances[place, id]) for place, id in enumerate(window[1:])]
    return float(np.mean(found))


def test_the_losses(source: Path, text: Path, tmp_path: Path) -> None:
    """The loss of the held-out tenth is that of the model, and that of the export as another back end finds it."""
    written = export(source, tmp_path / "out", dtype="bfloat16")
    assert written.losses is not None
    held_out = text.read_text()[360:]
    assert written.losses.before == pytest.approx(loss_of(source, held_out), abs=1e-5)
    assert written.losses.after == pytest.approx(loss_of(written.folder, held_out), abs=1e-5)
    assert written.losses.before != written.losses.after
    assert written.losses.part == "all of its held-out tenth"


def test_the_start_of_a_long_text(source: Path, text: Path, tmp_path: Path) -> None:
    """Of a long text only the first part is read, and the words say so."""
    text.write_text(text.read_text() * 300)  # the held-out tenth has 12,000 characters
    written = export(trained_on(source, text), tmp_path / "out")
    assert written.losses is not None
    assert written.losses.part == "the first 8,192 characters of its held-out tenth"
    assert written.losses.before == pytest.approx(loss_of(source, text.read_text()[108_000:116_192]), abs=1e-5)


def test_the_command_says_it(source: Path, text: Path, tmp_path: Path) -> None:
    """The command prints both losses and of what; or, where the text has changed or is gone, that there are none."""
    command = ["export", str(source), "--force", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)
    losses = export(source, tmp_path / "out", force=True).losses
    assert losses is not None
    before, after = f"{losses.before:.4f} before", f"{losses.after:.4f} after"
    assert f"loss            {before}, {after}: {text}, all of its held-out tenth\n" in done.stdout
    for change in (lambda: text.write_text(text.read_text() + "!"), text.unlink):
        change()
        done = CliRunner().invoke(main, command)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "not compared: the text that the model was trained on is not at hand" in done.stdout


def test_the_card_says_it(text: Path, tmp_path: Path, own_cache: Path) -> None:
    """A quantised export has its own results in its card, under the name of the text and not where it lies."""
    config = replace(GPT2, width=64)
    source = trained_on(with_run(random_folder(tmp_path / "source", config)), text)
    written = export(source, tmp_path / "out", quantize=4)
    assert written.losses is not None
    card = (written.folder / "README.md").read_text()
    after, before = f"{written.losses.after:.4f}", f"{written.losses.before:.4f}"
    assert f"| loss quantised | {after} nats on all of its held-out tenth, {before} before |" in card
    (line,) = (line for line in card.splitlines() if line.startswith("model-index: "))
    assert f'"value": {round(written.losses.after, 4)}}}' in line
    assert '"name": "my text"' in line
    assert str(text) not in card


def test_a_text_of_another_tokenizer(source: Path, text: Path, tmp_path: Path) -> None:
    """A text that the model cannot read is no reason to fail."""
    text.write_text(text.read_text() + "é")
    assert export(trained_on(source, text), tmp_path / "out").losses is None
