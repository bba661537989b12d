"""Which text a model was trained on: enough to know it again, wherever it lies.

An export says it in its config.json, whose unknown keys other tools keep when they save a model again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import escaped
from mlx_tinylm.files import read_json

TRAINED_ON = "trained_on"  # the key


@dataclass(frozen=True)
class TextRecord:
    """The text that a model was trained on."""

    name: str
    sha256: str  # of its UTF-8 bytes
    characters: int
    pairs: int = 0  # of prompt and completion that it consists of; 0 where it is text
    validated_on: str = ""  # another text's name, where all of this one was trained on; else a part is held out

    def to_json(self) -> dict[str, Any]:
        """The entry of `config.json`; bytes of the name that are no UTF-8 are escaped, as some readers refuse them."""
        said = asdict(self) | {"name": escaped(self.name), "validated_on": escaped(self.validated_on)}
        return {
            TRAINED_ON: {key: value for key, value in said.items() if value or key not in ("pairs", "validated_on")}
        }


def recorded_text(folder: Path) -> TextRecord | None:
    """What `config.json` says of the text; None where it says nothing, or nothing that makes sense.

    Raises TinyLMError where the file cannot be read.
    """
    raw = read_json(folder / "config.json")
    said = raw.get(TRAINED_ON) if isinstance(raw, dict) else None
    if not isinstance(said, dict):
        return None
    name, sha256, characters = (said.get(key) for key in ("name", "sha256", "characters"))
    if not isinstance(name, str) or not isinstance(sha256, str) or not isinstance(characters, int):
        return None
    pairs, other = said.get("pairs", 0), said.get("validated_on", "")
    pairs, other = pairs if isinstance(pairs, int) else 0, other if isinstance(other, str) else ""
    return TextRecord(name, sha256, characters, pairs, other)
