"""The one exception whose text is written for the person at the keyboard, and text made safe to show."""

# Unicode's spaces (category Zs), for callers of `escaped` that lay text out: only the first counts as printable.
SPACES = " \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"

# Letters of Persian and parts of emoji are joined, or kept apart, by them (U+200C, U+200D); they print nothing.
JOINERS = "\u200c\u200d"


def escaped(text: str, keep: str = "\n" + JOINERS) -> str:
    """Text whose control characters, and all else that does not print, are Python's escapes; those in `keep` stay.

    A terminal obeys what it is sent: a stranger's file could move the cursor, or hide what it says.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class TinyLMError(Exception):
    """A message meant for the user, shown as it is; only control characters become escapes, as it may quote a file."""

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))
