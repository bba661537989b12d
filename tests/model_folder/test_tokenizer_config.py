"""What other tools are told of a tokenizer; that they act on it is tested in tests/interop."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import random_folder
from tiny_models import GPT2, every_family

from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import shipped_weights
from mlx_tinylm.model_folder.tokenizer_config import tokenizer_config

END = "<|endoftext|>"
PASSES_THROUGH = "{% for m in messages %}{{ m.content }}{% endfor %}"


@every_family
def test_every_folder_has_it(config: ModelConfig, tmp_path: Path) -> None:
    """The class that keeps newlines, a pad token, the names of inputs, a template that adds nothing."""
    told = json.loads((random_folder(tmp_path, config) / "tokenizer_config.json").read_text())
    assert (told["tokenizer_class"], told["clean_up_tokenization_spaces"]) == ("PreTrainedTokenizerFast", False)
    assert (told["eos_token"], told["pad_token"], told["model_max_length"]) == (END, END, config.context)
    assert told["model_input_names"] == ["input_ids", "attention_mask"]
    assert told["chat_template"] == PASSES_THROUGH


def test_no_end_of_text() -> None:
    """A tokenizer without an end of text has nothing to pad with: no token is made up."""
    assert tokenizer_config(GPT2.context, None).items() >= {"eos_token": None, "pad_token": None}.items()


def test_what_ships_has_it() -> None:
    """The folder that ships says all that a folder written now says."""
    told = json.loads((shipped_weights() / "tokenizer_config.json").read_text())
    assert told == tokenizer_config(256, END)
