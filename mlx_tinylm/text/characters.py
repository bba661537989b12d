"""A character tokenizer: a BPE without merges, which every tool that reads `tokenizer.json` reads.

The ids 0..V-1 are the characters in code-point order; special tokens come behind them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

CHARACTERS = "char"  # what a run calls this kind


def of_characters(alphabet: str, special: Sequence[str]) -> Any:
    """The `tokenizers.Tokenizer` whose ids are the places of the sorted distinct characters, then `special`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    vocab = {character: i for i, character in enumerate(sorted(set(alphabet)))}
    inner = Tokenizer(models.BPE(vocab, merges=[]))
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return inner


def alphabet_of(inner: Any) -> str | None:
    """The characters in id order if this is a character tokenizer as `of_characters` makes it."""
    vocab = inner.get_vocab(with_added_tokens=False)
    tokens = sorted(vocab, key=vocab.__getitem__)
    # Before to_str(), which counts up to the largest id there is: a hostile one would take minutes.
    if any(len(token) != 1 for token in tokens) or [vocab[t] for t in tokens] != list(range(len(tokens))):
        return None
    raw = json.loads(inner.to_str())
    if raw["model"].get("type") != "BPE" or raw["model"].get("merges"):
        return None
    if raw.get("normalizer") or raw.get("pre_tokenizer") or not _adds_nothing(raw.get("post_processor")):
        return None
    if (raw.get("decoder") or {}).get("type") != "Fuse":
        return None
    if any(token["id"] < len(tokens) or not token["special"] for token in raw["added_tokens"]):
        return None
    return "".join(tokens)


def _adds_nothing(post_processor: dict[str, Any] | None) -> bool:
    """Whether ids stay as they are: transformers 5 saves a template that holds the text, or both of a pair, alone."""
    if post_processor is None:
        return True
    if post_processor["type"] != "TemplateProcessing" or post_processor["special_tokens"]:
        return False
    texts = [[piece.get("Sequence", {}).get("id") for piece in post_processor[of]] for of in ("single", "pair")]
    return texts == [["A"], ["A", "B"]]
