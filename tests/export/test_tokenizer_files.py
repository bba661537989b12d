"""What a folder tells other tools of its tokenizer comes along to an export, where it does no harm there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import random_folder
from tiny_models import GPT2
from tokenizers import Tokenizer as Inner
from tokenizers import models

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.model_folder.tokenizer_config import tokenizer_config

OURS = tokenizer_config(GPT2.context, "<|endoftext|>")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return random_folder(tmp_path / "source", GPT2)


def told(source: Path, out: Path, **said: object) -> dict[str, Any]:
    """The tokenizer_config.json of an export whose source says this."""
    (source / "tokenizer_config.json").write_text(json.dumps(said))
    content: dict[str, Any] = json.loads((export(source, out).folder / "tokenizer_config.json").read_text())
    return content


HARMLESS = {"chat_template": "{{ messages }}", "padding_side": "left", "truncation_side": "left", "pad_token": "a"}


def test_what_a_user_set(source: Path, tmp_path: Path) -> None:
    """A template, sides and known tokens are kept; all else is what this program says, as after other tools' saving."""
    (source / "tokenizer.json").write_text((source / "tokenizer.json").read_text().replace('"!"', '"a"'))
    saved_again = {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "local_files_only": True}
    harmful = {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "add_prefix_space": True, "unk_token": "<unk>"}
    found = told(source, tmp_path / "out", **HARMLESS, **saved_again, **harmful, padding=None, model_max_length=9)
    assert found == OURS | HARMLESS


@pytest.mark.parametrize("said", [{}, {"chat_template": 3}, {"pad_token": None}, {"padding_side": ["left"]}], ids=str)
def test_what_says_nothing(said: dict[str, object], source: Path, tmp_path: Path) -> None:
    """Where the source says nothing of use, the export has what every folder has."""
    assert told(source, tmp_path / "out", **said) == OURS


def test_a_template_in_a_file(source: Path, tmp_path: Path) -> None:
    """A template in a file, where transformers 5 writes it, is the one that counts, and becomes a key again."""
    (source / "chat_template.jinja").write_text("{{ 'é' }}\n")
    found = told(source, tmp_path / "out", chat_template="an older one")
    assert found["chat_template"] == "{{ 'é' }}\n"
    assert not (tmp_path / "out" / "chat_template.jinja").exists()


def test_a_class_of_transformers_5(source: Path, tmp_path: Path) -> None:
    """Another tool's tokenizer keeps all that is said of it, under names that older tools know as well."""
    inner = Inner(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    (source / "tokenizer.json").write_text(inner.to_str())
    said = {"tokenizer_class": "TokenizersBackend", "eos_token": "b", "theirs": [1], "extra_special_tokens": ["ab"]}
    assert told(source, tmp_path / "out", **said) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "b",
        "theirs": [1],
        "additional_special_tokens": ["ab"],
        "model_input_names": ["input_ids", "attention_mask"],
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
    ],
)
def test_damaged_files(name: str, content: bytes, expected: str, source: Path, tmp_path: Path) -> None:
    """A file that other tools could not read either is named, and nothing is written."""
    (source / name).write_bytes(content)
    with pytest.raises(TinyLMError, match=rf"{name}: {expected}"):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
