"""The text a model was trained on: what a folder says of it, and where it lies now."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import random_folder
from tiny_runs import PLAIN, train, write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.config import GPT2Config
from mlx_tinylm.run_folder.training_text import text_at_hand, trained_on, training_text
from mlx_tinylm.text.named_corpora import DEFAULT_CORPUS, NAMED, data_dir, is_kept


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt", 400)


@pytest.fixture
def run(text: Path, own_cache: Path, tmp_path: Path) -> Path:
    train(tmp_path / "run", PLAIN, text)
    return tmp_path / "run"


@pytest.fixture
def export(tmp_path: Path, own_cache: Path) -> Path:
    """A model folder without a run."""
    return random_folder(tmp_path / "export", GPT2Config(vocab_size=97, context=8, width=16, layers=1, heads=2))


def say(folder: Path, name: str, sha256: str, **more: str) -> None:
    """Let the config.json of a folder say what the model was trained on, as an export does."""
    config = json.loads((folder / "config.json").read_text())
    said = {"trained_on": {"name": name, "sha256": sha256, "characters": 400} | more}
    (folder / "config.json").write_text(json.dumps(config | said))


def test_the_text_at_hand(run: Path, text: Path) -> None:
    """A run's text is at hand as long as it is what the run read; nothing else is taken for it, and nothing raised."""
    found = text_at_hand(run)
    assert found is not None
    assert found.text() == text.read_text()
    assert training_text(run) == found
    whole = text.read_text()
    text.write_text(whole + "a")
    assert text_at_hand(run) is None
    text.unlink()
    assert text_at_hand(run) is None
    text.write_text(whole)
    (run / "train.json").write_text("{")
    assert text_at_hand(run) is None
    assert text_at_hand(run / "nowhere") is None


def test_a_named_text_is_at_hand_where_it_is_kept(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that tells the SHA-256 of a named corpus has it at hand if it is kept; it is not fetched."""
    say(export, "my copy", NAMED[DEFAULT_CORPUS].sha256)
    monkeypatch.setenv("MLX_TINYLM_DATA", str(tmp_path))
    assert text_at_hand(export) is None
    assert (capsys.readouterr().err, data_dir()) == ("", tmp_path)
    monkeypatch.undo()
    if not is_kept(DEFAULT_CORPUS):
        pytest.skip("tinyshakespeare is not fetched")
    found = text_at_hand(export)
    assert found is not None
    assert found.name == DEFAULT_CORPUS
    assert training_text(export) == found
    say(export, "my copy", NAMED[DEFAULT_CORPUS].sha256, validated_on="other.txt")  # then its last tenth is trained on
    assert text_at_hand(export) is None


def test_a_named_text_is_fetched_when_it_is_needed(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not at hand is fetched once it is asked for, by the SHA-256 that the folder tells."""
    say(export, "my copy", NAMED[DEFAULT_CORPUS].sha256)
    monkeypatch.setenv("MLX_TINYLM_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr("mlx_tinylm.text.named_corpora.NAMED", {DEFAULT_CORPUS: NAMED[DEFAULT_CORPUS]})
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setattr("subprocess.run", no_network)
    with pytest.raises(TinyLMError, match="tinyshakespeare could not be fetched"):
        training_text(export)
    assert "tinyshakespeare: fetching" in capsys.readouterr().err


def no_network(*given: object, **more: object) -> None:
    raise OSError("no network")


def test_a_run_whose_text_is_gone(run: Path, text: Path, tmp_path: Path) -> None:
    """Of a run whose text is gone it is said where that was."""
    assert trained_on(run) is not None
    shutil.move(text, tmp_path / "elsewhere.txt")
    with pytest.raises(TinyLMError, match=r"text\.txt', is not here; give a text with --data$"):
        training_text(run)


@pytest.mark.parametrize("said", ["a\x1b[2Jbook", "x" * 999])
def test_an_export_whose_text_is_not_here(export: Path, said: str) -> None:
    """An export names the text that it cannot find, in one line without control characters, and takes no other."""
    say(export, said, "0" * 64)
    assert text_at_hand(export) is None
    with pytest.raises(TinyLMError) as error:
        training_text(export)
    message = str(error.value)
    assert message.startswith(f"{export}: the text it was trained on, '{said[:1]}")
    assert message.endswith(" is not here; give it or another with --data")
    assert message.isprintable()
    assert len(message) < 500


def test_a_folder_that_says_nothing(export: Path) -> None:
    """A model of another tool says nothing of its text; what makes no sense there counts as nothing."""
    assert trained_on(export) is None
    assert text_at_hand(export) is None
    with pytest.raises(TinyLMError) as error:
        training_text(export)
    assert str(error.value) == f"{export}: says nothing of the text it was trained on; give a text with --data"
