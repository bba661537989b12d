"""Where an export may be written: what its `--force` replaces is an earlier export, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_tinylm.checks import check
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.gguf import GGUF
from mlx_tinylm.export.model_card import CARD, sealed_files
from mlx_tinylm.export.tokenizer_files import FOREIGN_FILES
from mlx_tinylm.files import is_leftover, undo_exchange
from mlx_tinylm.model_folder.folder import WEIGHTS
from mlx_tinylm.run_folder.folder import SETTINGS
from mlx_tinylm.run_folder.target import run_around

OWN_FILES = {"config.json", "tokenizer.json", "generation_config.json", WEIGHTS, CARD, GGUF, *FOREIGN_FILES}


def check_target(source: Path, out: Path, force: bool) -> None:
    """Raise TinyLMError unless the model in `source` may be exported to `out`, and nothing of anybody's is lost.

    `out` does not exist or is empty; or, with `force`, it is an export, or has no file of an export's names.
    """
    around = run_around(out)
    check(around is None, f"{out}: lies in the folder of a training run, {around}; choose another --out")
    try:
        if not out.exists():
            return
        check(out.is_dir(), f"{out}: is a file; choose another --out")
        undo_exchange(out)  # an export that was cut short while it replaced another
        there = sorted(path.name for path in out.iterdir() if not is_leftover(path.name))
        lies_in_out = _lies_in(source, out)
    except OSError as error:
        raise TinyLMError(f"{out}: cannot be used ({error.strerror or error}); choose another --out") from None
    check(
        not lies_in_out,
        f"{out}: is where the model to export lies, and an export would replace it; choose another --out",
    )
    check(
        force or not there,
        f"{out}: has something in it already ({', '.join(there[:3])}); "
        "choose another --out, or add --force if it is an earlier export",
    )
    check(SETTINGS not in there, f"{out}: holds a training run ({SETTINGS}), not an export; choose another --out")
    ours = [name for name in there if name in OWN_FILES]
    written = sealed_files(out / CARD)
    if ours and written is None:
        found = f"its {CARD} is not one that export wrote, or was edited since"
        raise TinyLMError(
            f"{out}: {found if CARD in ours else f'has no {CARD} that export wrote'}, and --force replaces an export "
            f"and nothing else; choose another --out, or move {', '.join(ours)} away"
        )
    folders = [name for name in ours if (out / name).is_dir()]
    check(not folders, f"{out}: {', '.join(folders)} is a folder, which no export made; choose another --out")
    foreign = [name for name in ours if written is not None and name not in written]
    check(
        not foreign,
        f"{out}: {', '.join(foreign)} was not written by the export there and is kept; choose another --out",
    )


def _lies_in(source: Path, out: Path) -> bool:
    """Whether the model in `source` is that in `out`, or has files there by links."""
    places = {source, *(Path(os.path.realpath(path)).parent for path in source.iterdir())}
    return any(place.samefile(out) for place in places if place.exists())
