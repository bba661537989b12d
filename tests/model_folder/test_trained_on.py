"""What config.json says of the text that a model was trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_models import GPT2

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.model_folder.folder import read_config, shipped_weights, write_folder
from mlx_tinylm.model_folder.trained_on import TextRecord, recorded_text
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.tokenizer import Tokenizer

ALPHABET = "abcdefghijkl"


def test_written_and_read(tmp_path: Path) -> None:
    """It comes back as it was given, and changes nothing else of the folder."""
    text = TextRecord('my "book"\n, é', "5" * 64, 1234)
    write_folder(tmp_path, GPT2, Tokenizer.from_alphabet(ALPHABET), text=text)
    assert json.loads((tmp_path / "config.json").read_text())["trained_on"] == {
        "name": 'my "book"\n, é',
        "sha256": "5" * 64,
        "characters": 1234,
    }
    assert recorded_text(tmp_path) == text
    assert read_config(tmp_path) == GPT2
    write_folder(tmp_path, GPT2, Tokenizer.from_alphabet(ALPHABET))
    assert recorded_text(tmp_path) is None


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    """Its bytes become escapes: some readers of JSON refuse half of a surrogate pair."""
    text = TextRecord(os.fsdecode(b"caf\xe9"), "5" * 64, 1)
    write_folder(tmp_path, GPT2, Tokenizer.from_alphabet(ALPHABET), text=text)
    assert json.loads((tmp_path / "config.json").read_bytes())["trained_on"]["name"] == "caf\\udce9"


@pytest.mark.parametrize("said", [None, [], 3, "x", {}, {"name": "x"}, {"name": 1, "sha256": "5", "characters": 1}])
def test_what_makes_no_sense(said: Any, tmp_path: Path) -> None:
    """Another tool's key of that name is no error, and says nothing."""
    (tmp_path / "config.json").write_text(json.dumps({"trained_on": said}))
    assert recorded_text(tmp_path) is None
    (tmp_path / "config.json").write_text("[]")
    assert recorded_text(tmp_path) is None
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(TinyLMError, match=r"config\.json: not valid JSON"):
        recorded_text(tmp_path)


def test_the_shipped_model() -> None:
    """The model that ships was trained on the corpus called tinyshakespeare, to the byte."""
    text = recorded_text(shipped_weights())
    assert text == TextRecord("tinyshakespeare", NAMED["tinyshakespeare"].sha256, NAMED["tinyshakespeare"].bytes)
