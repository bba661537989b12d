"""A character tokenizer: a BPE without merges, which every tool that reads `tokenizer.json` reads.

The ids 0..V-1 are the characters in code-point order; special tokens come behind them, and behind these what a model
learned later.
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


def extended(inner: Any, characters: str, special: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer` with more characters behind all ids that there are, and `special` tokens behind those.

    What is known already keeps its id, as a special token between characters does by standing in the vocabulary, too.
    """
    from tokenizers import AddedToken, Tokenizer

    raw = json.loads(inner.to_str())
    if characters:
        vocab = raw["model"]["vocab"]
        vocab |= {token["content"]: token["id"] for token in raw["added_tokens"]}
        vocab |= {character: id for id, character in enumerate(sorted(set(characters) - vocab.keys()), len(vocab))}
    grown = Tokenizer.from_str(json.dumps(raw))
    grown.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return grown


def characters_of(inner: Any) -> dict[str, int] | None:
    """The characters and their ids, in the order of these, if this is a character tokenizer as is made here."""
    added = inner.get_added_tokens_decoder()
    vocab = {token: id for token, id in inner.get_vocab(with_added_tokens=False).items() if id not in added}
    # Before to_str(), which counts up to the largest id there is: a hostile one would take minutes.
    if any(len(token) != 1 for token in vocab) or max(vocab.values(), default=-1) >= len(vocab) + len(added):
        return None
    if any(not token.special or len(token.content) == 1 for token in added.values()):
        return None
    raw = json.loads(inner.to_str())
    if raw["model"].get("type") != "BPE" or raw["model"].get("merges"):
        return None
    if raw.get("normalizer") or raw.get("pre_tokenizer") or not _adds_nothing(raw.get("post_processor")):
        return None
    if (raw.get("decoder") or {}).get("type") != "Fuse":
        return None
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def _adds_nothing(post_processor: dict[str, Any] | None) -> bool:
    """Whether ids stay as they are: transformers 5 saves a template that holds the text, or both of a pair, alone."""
    if post_processor is None:
        return True
    if post_processor["type"] != "TemplateProcessing" or post_processor["special_tokens"]:
        return False
    texts = [[piece.get("Sequence", {}).get("id") for piece in post_processor[of]] for of in ("single", "pair")]
    return texts == [["A"], ["A", "B"]]
