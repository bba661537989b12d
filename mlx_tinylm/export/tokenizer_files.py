"""What a model folder tells other tools about its tokenizer, brought along to its export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read, read_json, to_json, write_atomically
from mlx_tinylm.model_folder.tokenizer_config import INPUT_NAMES, TOKENIZER_CLASS
from mlx_tinylm.text.tokenizer import TOKENIZER_CONFIG, Tokenizer

TEMPLATE = "chat_template.jinja"  # where transformers 5 writes what it reads in tokenizer_config.json, too
FOREIGN_FILES = (TOKENIZER_CONFIG, TEMPLATE)

# Of a character tokenizer's file, what a user may have set, and what changes no id. The rest is what this program
# writes, or names classes and code.
HARMLESS = ("chat_template", "padding_side", "truncation_side")
TOKENS = ("pad_token", "bos_token", "unk_token")  # where the vocabulary has them; others would get an id past its end


def bring_tokenizer_files(source: Path, out: Path, tokenizer: Tokenizer) -> None:
    """Add what `source` says to the files in `out`, as `write_folder` left them; of another tool's tokenizer, all.

    Raises TinyLMError naming a file of `source` that cannot be read.
    """
    path = source / TOKENIZER_CONFIG
    theirs = read_json(path) if path.is_file() else {}
    check(isinstance(theirs, dict), f"{path}: not a JSON object")
    if tokenizer.alphabet is None:
        for name in FOREIGN_FILES:
            if (source / name).is_file():
                write_atomically(out / name, read(source / name))
        if theirs.get("tokenizer_class") == "TokenizersBackend":
            write_atomically(out / TOKENIZER_CONFIG, to_json(_for_older_tools(theirs)))
        return
    if (source / TEMPLATE).is_file():
        theirs = theirs | {"chat_template": _text(source / TEMPLATE)}
    kept = {key: theirs[key] for key in HARMLESS if isinstance(theirs.get(key), str)}
    kept |= {key: token for key in TOKENS if _is_known(token := theirs.get(key), tokenizer)}
    write_atomically(out / TOKENIZER_CONFIG, to_json(read_json(out / TOKENIZER_CONFIG) | kept))


def _for_older_tools(theirs: dict[str, Any]) -> dict[str, Any]:
    """A file of transformers 5 with the names under which every tool knows the same things."""
    raw = {"model_input_names": INPUT_NAMES} | theirs | {"tokenizer_class": TOKENIZER_CLASS}
    if isinstance(raw.get("extra_special_tokens"), list):  # transformers 4 wants an object there
        raw["additional_special_tokens"] = raw.pop("extra_special_tokens")
    return raw


def _is_known(token: object, tokenizer: Tokenizer) -> bool:
    return isinstance(token, str) and tokenizer.inner.token_to_id(token) is not None


def _text(path: Path) -> str:
    try:
        return read(path).decode()
    except UnicodeDecodeError:
        raise TinyLMError(f"{path}: not UTF-8") from None
