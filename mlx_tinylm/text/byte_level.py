"""Byte-level BPE: subwords of UTF-8 bytes, so that any text has ids and comes back exactly (Sennrich et al. 2016;
bytes and the way a text is split as in GPT-2, Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

SUBWORDS = "bpe"  # what a run calls this kind
FEED = 1 << 14  # characters that the library is given at once; it holds 256 such pieces

# What other tools' tokenizers split by, under the names that llama.cpp has for it.
_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": (
        "qwen2"
    ),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+": "llama-bpe",
}


def trained(texts: Iterable[str], vocab_size: int, special: tuple[str, ...]) -> Any:
    """A `tokenizers.Tokenizer` of at most `vocab_size` ids: 256 bytes, merges learned from `texts`, then `special`.

    Texts are split by GPT-2's regular expression, and nothing is normalised. The same texts give the same tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_fed(texts), trainer)
    inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return inner


def _fed(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (text[start : start + FEED] for start in range(0, len(text), FEED))


def split_like(raw: Any) -> str | None:
    """The name that llama.cpp has for how the tokenizer of this `tokenizer.json` splits a text: "gpt-2", "qwen2",
    "smollm" or "llama-bpe"; None for any other.

    All of them are byte-level, normalise nothing but to NFC, and put nothing before a text.
    """
    if raw["model"].get("type") != "BPE" or (raw.get("normalizer") or {"type": "NFC"}) != {"type": "NFC"}:
        return None
    given = raw.get("pre_tokenizer") or {}
    match given.get("pretokenizers") if given.get("type") == "Sequence" else [given]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return "gpt-2"
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return "smollm"
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return _PATTERNS.get(pattern)
    return None


def cuts_at_lines(raw: Any) -> bool:
    """Whether a text may be cut between a "\\n" behind a character that is no space and another such character.

    All the ways to split that are known end a piece there, whatever follows, and no merge crosses pieces. An added
    token could cross it that has a line's end in it, or takes the space before it along.
    """
    crossing = any(token["lstrip"] or "\n" in token["content"] for token in raw["added_tokens"])
    return split_like(raw) is not None and not crossing


@functools.cache
def visible() -> dict[int, str]:
    """The visible character that GPT-2's vocabulary has for each byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in kept]
    return {byte: chr(byte) for byte in kept} | {byte: chr(0x100 + place) for place, byte in enumerate(hidden)}


def visible_bytes(text: str) -> str:
    """The UTF-8 bytes of a text as GPT-2's vocabulary writes them: one visible character each."""
    return "".join(visible()[byte] for byte in text.encode("utf-8", "surrogatepass"))


def token_bytes(inner: Any) -> dict[int, bytes] | None:
    """The bytes of each id of a byte-level `tokenizers.Tokenizer`, none for a special one; None for any other kind."""
    from tokenizers import decoders

    if not isinstance(inner.decoder, decoders.ByteLevel):
        return None
    byte_of = {character: byte for byte, character in visible().items()}

    def of(token: str) -> bytes:
        known = all(character in byte_of for character in token)
        return bytes(byte_of[character] for character in token) if known else token.encode()

    special = {id for id, token in inner.get_added_tokens_decoder().items() if token.special}
    vocab = inner.get_vocab(with_added_tokens=True)
    return {id: b"" if id in special else of(token) for token, id in vocab.items()}
