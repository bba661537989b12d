"""What the `tokenizers` library raises, as errors for users."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlx_tinylm.errors import TinyLMError


@contextlib.contextmanager
def in_the_library(problem: str) -> Iterator[None]:
    """Raise TinyLMError for what the library raises: bare Exception, sometimes PanicException, which is none."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, (TinyLMError, KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise TinyLMError(f"{problem} ({' '.join(str(error).split())[:200]})") from None
