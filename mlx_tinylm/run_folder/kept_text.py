"""What a run's text is opened with again; what came through a pipe is kept in the run's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import write_atomically
from mlx_tinylm.integrity import BLOCK, sha256_of
from mlx_tinylm.run_folder.folder import is_kept_text, kept_text
from mlx_tinylm.text.corpus import Corpus
from mlx_tinylm.text.fetching import is_address
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.reading import SUFFIXES, kind_of


def kept_sources(
    writing: Path, folder: Path, corpus: Corpus | None, data: Sequence[str], validation: bool = False
) -> tuple[str, ...]:
    """What to open a text with again that was opened with `data`.

    What came through a pipe is written into the folder `writing`, which becomes `folder`, byte for byte; raises
    TinyLMError where there is such a text, of another run. A corpus that is None has none.
    """
    if corpus is None:
        return ()
    piped = list(corpus.piped)
    found = []
    for item in data:
        if item in NAMED or is_address(item):
            found.append(item)
        elif item != "-" and (os.path.isfile(item) or os.path.isdir(item)):
            place = Path(item).resolve()
            own = place.parent == folder.resolve() and is_kept_text(place.name)
            found.append(place.name if own else str(place))  # its own stays so when the run moves
        else:
            number, source = 1 + len(corpus.piped) - len(piped), piped.pop(0)
            suffix = kind_of(source) if kind_of(source) in SUFFIXES else ".txt"
            name = kept_text(number, validation, suffix + (".gz" if source.suffix.lower() == ".gz" else ""))
            _keep(source, writing, folder, name)
            found.append(name)
    return tuple(found)


def _keep(source: Path, writing: Path, folder: Path, name: str) -> None:
    if not (folder / name).exists():
        write_atomically(writing / name, _blocks(source))
    elif sha256_of(folder / name) != sha256_of(source):
        raise TinyLMError(
            f"{folder / name}: is another text, perhaps the only copy of what came through a pipe; "
            "move it, or choose another --out"
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
