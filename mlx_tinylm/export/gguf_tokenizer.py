"""The tokenizer of a GGUF file: llama.cpp has GPT-2's byte-level one, of which a character tokenizer is a case.

There each character is one token, and the bytes of a longer one are merged from left to right.
"""

from __future__ import annotations

import json
from typing import Any

from mlx_tinylm.checks import check
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.text.byte_level import split_like, visible_bytes
from mlx_tinylm.text.tokenizer import END_OF_TEXT, Tokenizer

# Splits nothing that a character needs. With "gpt-2", by which subwords made here are split, llama_detokenize takes
# spaces away, "a , b" becoming "a, b", as it does with GPT-2 itself; what llama.cpp writes token by token keeps them.
FOR_CHARACTERS = "qwen2"
MERGED_WHOLE = "llama-bpe"  # where llama.cpp takes a piece that is a token as it is, whatever the merges say


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise TinyLMError where llama.cpp has no tokenizer that gives the same ids."""
    if tokenizer.alphabet is None:
        raw = json.loads(tokenizer.inner.to_str())
        pre, model = split_like(raw), raw["model"]
        same = pre is not None and model.get("ignore_merges", False) == (pre == MERGED_WHOLE)
        plain = not any(map(model.get, ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")))
        check(
            same and plain,
            "llama.cpp has no tokenizer that splits text as this one does; leave out --gguf, or convert the folder "
            "with llama.cpp's own convert_hf_to_gguf.py",
        )


def add_tokenizer(writer: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Tell a GGUFWriter of the `gguf` package all about a tokenizer that `check_tokenizer` has let through."""
    import gguf

    added = tokenizer.inner.get_added_tokens_decoder()
    by_id = {id: token for token, id in tokenizer.inner.get_vocab(with_added_tokens=True).items()}
    tokens, kinds = [], []
    for id in range(config.vocab_size):
        if id not in by_id or id in added:
            tokens.append(by_id.get(id, f"<|unused {id}|>"))
            named = id in by_id and not added[id].special
            kinds.append(gguf.TokenType.USER_DEFINED if named else gguf.TokenType.CONTROL)
        else:
            tokens.append(by_id[id] if tokenizer.alphabet is None else visible_bytes(by_id[id]))
            kinds.append(gguf.TokenType.NORMAL)
    if tokenizer.alphabet is None:
        raw = json.loads(tokenizer.inner.to_str())
        pre, merges = split_like(raw), [" ".join(pair) for pair in raw["model"]["merges"]]
    else:
        of_bytes = (token for token, kind in zip(tokens, kinds, strict=True) if kind == gguf.TokenType.NORMAL)
        pre, merges = FOR_CHARACTERS, list(dict.fromkeys(pair for token in of_bytes for pair in _from_the_left(token)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # llama.cpp wants at least one merge, so here is one that no text can lead to
    writer.add_token_merges(merges or [f"{END_OF_TEXT} {END_OF_TEXT}"])
    eos_id = config.eos_ids[0] if config.eos_ids else tokenizer.eos_id
    pad_id = eos_id if tokenizer.pad_id is None else tokenizer.pad_id
    if eos_id is not None:
        writer.add_eos_token_id(eos_id)
    if pad_id is not None:
        writer.add_pad_token_id(pad_id)
    writer.add_add_bos_token(False)  # there is none


def _from_the_left(token: str) -> list[str]:
    return [f"{token[:place]} {token[place]}" for place in range(1, len(token))]
