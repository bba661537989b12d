"""train.json: all that a run depends on, sealed against change."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json, write_atomically
from mlx_tinylm.integrity import read_sealed, sealed, sha256_of
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.run_folder.folder import SETTINGS, TEXT
from mlx_tinylm.run_folder.settings import TrainConfig
from mlx_tinylm.text.named_corpora import NAMED

LATER = {"history": None}  # settings that older runs know nothing of, as they were then


@dataclass(frozen=True)
class RunRecord:
    """What `train.json` says; the fields are its keys."""

    settings: TrainConfig
    init_from: str | None  # the model folder that the run began with
    data: tuple[str, ...]  # names of corpora, absolute paths, or TEXT: what to open the text with again
    corpus: TextRecord
    files: dict[str, str]  # SHA-256 of the model's small files by name
    versions: dict[str, str]  # of the packages that computed
    device: str  # as MLX names it
    tf32: bool = False  # whether float32 products could be TF32 there

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
            corpus = raw["corpus"]
            return cls(
                TrainConfig.from_json(LATER | raw["settings"]),
                raw["init_from"],
                tuple(map(str, raw["data"])),
                TextRecord(str(corpus["name"]), str(corpus["sha256"]), int(corpus["characters"])),
                dict(raw["files"]),
                dict(raw["versions"]),
                str(raw["device"]),
                bool(raw.get("tf32", False)),
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
        return dataclasses.asdict(self)

    def sources(self, folder: Path) -> list[str]:
        """What to open the text with again, for the run in `folder`.

        Raises TinyLMError where it is neither a named corpus nor files that are still there.
        """
        data = [str(folder / TEXT) if item == TEXT else item for item in self.data]
        for item in data:
            if item not in NAMED and not os.path.isfile(item) and not os.path.isdir(item):  # a pipe or "-" would wait
                name = repr(item[:200])
                raise TinyLMError(f"{folder}: the text it was trained on, {name}, is not here; give a text with --data")
        return data
