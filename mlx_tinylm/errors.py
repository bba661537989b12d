"""The one exception whose text is written for the person at the keyboard."""


class TinyLMError(Exception):
    """A message meant for the user, shown as it is; only control characters become escapes.

    It may quote a stranger's file, and a terminal obeys what it is sent.
    """

    def __init__(self, message: str) -> None:
        shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))
