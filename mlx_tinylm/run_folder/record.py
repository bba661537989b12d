"""train.json: all that a run depends on, sealed against change."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json, write_atomically
from mlx_tinylm.integrity import read_sealed, sealed, sha256_of
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.folder import SETTINGS, is_kept_text
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.fetching import is_address
from mlx_tinylm.text.named_corpora import NAMED
from mlx_tinylm.text.reading import UTF_8, Reading
from mlx_tinylm.watch import WatchStages, unwatched

# How a text was read before that was recorded: every byte kept, and several files as one.
BEFORE = Reading(raw=True, as_one=True)


@dataclass(frozen=True)
class RunRecord:
    """What `train.json` says; the fields are its keys."""

    settings: TrainConfig
    init_from: str | None  # the model folder that the run began with
    # What to open the text with again: names of corpora, addresses, absolute paths, names of files in the run's folder.
    data: tuple[str, ...]
    corpus: TextRecord
    files: dict[str, str]  # SHA-256 of the model's small files by name
    versions: dict[str, str]  # of the packages that computed
    device: str  # as MLX names it
    tf32: bool = False  # whether float32 products could be TF32 there
    reading: Reading = UTF_8
    val_data: tuple[str, ...] = ()  # as `data`, where another text is held out
    val_corpus: TextRecord | None = None

    @classmethod
    def find(cls, folder: Path) -> RunRecord | None:
        """The record in a folder, None where there is none, or the train.json of another program.

        Raises TinyLMError naming the file where it is damaged.
        """
        path = folder / SETTINGS
        if not path.exists():
            return None
        content = read_json(path)
        if isinstance(content, dict) and content and not {"settings", "corpus", "sha256"} & content.keys():
            return None
        raw = read_sealed(path)
        try:
            reading, val_corpus = raw.get("reading"), raw.get("val_corpus")
            return cls(
                TrainConfig.from_json(raw["settings"]),
                raw["init_from"],
                tuple(map(str, raw["data"])),
                _text(raw["corpus"]),
                dict(raw["files"]),
                dict(raw["versions"]),
                str(raw["device"]),
                bool(raw.get("tf32", False)),
                Reading(str(reading["encoding"]), bool(reading["raw"]), bool(reading["as_one"])) if reading else BEFORE,
                tuple(map(str, raw.get("val_data", ()))),
                _text(val_corpus) if val_corpus else None,
            )
        except TinyLMError as error:
            raise TinyLMError(f"{path}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise TinyLMError(f"{path}: not the settings of a run ({error!r})") from None

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record of a run that can go on.

        Raises TinyLMError where there is none, or it or the model's small files have changed since.
        """
        record = cls.find(folder)
        if record is None:
            raise TinyLMError(f"{folder}: no run to resume here ({SETTINGS} is missing)")
        for name, sha256 in record.files.items():
            if not (folder / name).is_file():
                raise TinyLMError(f"{folder / name}: is missing; put it back from a copy")
            if sha256_of(folder / name) != sha256:
                raise TinyLMError(f"{folder / name}: is not what this run began with; put it back from a copy")
        return record

    @property
    def first_validation(self) -> int:
        """The first step whose validation counts: from random weights, those of step 0 are never kept."""
        return 1 if self.init_from is None else 0

    def write(self, folder: Path) -> None:
        """Put the record into a folder; raises TinyLMError where that cannot be done."""
        write_atomically(folder / SETTINGS, sealed(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        said = dataclasses.asdict(self)
        for text in filter(None, (said["corpus"], said["val_corpus"])):
            del text["validated_on"]  # `val_corpus` says it
        return said

    def sources(self, folder: Path) -> list[str]:
        """What to open the text with again, for the run in `folder`.

        Raises TinyLMError where it is neither a named corpus nor at an address nor files that are still there.
        """
        return _here(folder, self.data, "the text it was trained on", "--data")

    def val_sources(self, folder: Path) -> list[str]:
        """The same of the text that is held out in its place; nothing where there is none."""
        return _here(folder, self.val_data, "the text it is validated with", "--val-data")

    def opened(
        self,
        folder: Path,
        data: Sequence[str] | None = (),
        val_data: Sequence[str] | None = (),
        watch: WatchStages = unwatched,
    ) -> Corpus:
        """The text as it was read, from where it was, or is now; it may be another one by now."""
        return open_corpus(data or self.sources(folder), self.reading, val_data or self.val_sources(folder), watch)

    def is_of(self, corpus: Corpus) -> bool:
        """Whether a text, and what it is validated with, are what the run began with."""
        validation = corpus.validation.sha256 if corpus.validation else None
        return (corpus.sha256, validation) == (self.corpus.sha256, self.val_corpus and self.val_corpus.sha256)


def _text(raw: Any) -> TextRecord:
    return TextRecord(str(raw["name"]), str(raw["sha256"]), int(raw["characters"]), int(raw.get("pairs", 0)))


def _here(folder: Path, data: Sequence[str], what: str, option: str) -> list[str]:
    found = [str(folder / item) if is_kept_text(item) else item for item in data]
    for item in found:  # a pipe or "-" would wait
        if item not in NAMED and not is_address(item) and not os.path.isfile(item) and not os.path.isdir(item):
            raise TinyLMError(f"{folder}: {what}, {item[:200]!r}, is not here; give a text with {option}")
    return found
