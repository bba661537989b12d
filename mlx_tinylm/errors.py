"""The one exception whose text is written for the person at the keyboard."""


class TinyLMError(Exception):
    """A message meant for the user, shown verbatim."""
