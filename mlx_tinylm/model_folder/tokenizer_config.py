"""`tokenizer_config.json`: what other tools have to know about a `tokenizer.json`."""

from __future__ import annotations

from typing import Any

TOKENIZER_CLASS = "PreTrainedTokenizerFast"  # what every tool takes for "tokenizer.json as it stands"
INPUT_NAMES = ["input_ids", "attention_mask"]  # or transformers 4 hands token_type_ids to a model that takes none

# Chat programs want one, or bring their own. A model that goes on from a text goes on from what was typed.
CHAT_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def tokenizer_config(context: int, eos_token: str | None, pad_token: str | None = None) -> dict[str, Any]:
    """The content of the file; without the class, other tools bring their own pre-tokenizer and lose newlines.

    Batches need something that pads; without a token of its own it is the end of a text. Where that is trained, it is
    none: tools that train take no loss from what pads.
    """
    return {
        "tokenizer_class": TOKENIZER_CLASS,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos_token,
        "pad_token": pad_token or eos_token,
        "model_input_names": INPUT_NAMES,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
