"""What the cache of ids keeps, and what goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.ids_cache import kept, used


def filled(cache: Path, **sizes: int) -> list[Path]:
    """Files of so many bytes, the first used longest ago."""
    folder = cache / "ids"
    folder.mkdir(parents=True, exist_ok=True)
    for age, (name, size) in enumerate(sizes.items()):
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (1000 + age, 1000 + age))
    return [folder / name for name in sizes]


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "ids").iterdir())


def test_the_longest_unused_goes(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit those that were used last stay, whatever their age; the one in use always does."""
    monkeypatch.setenv("MLX_TINYLM_CACHE_GB", "0.000000100")
    a, b, c = filled(own_cache, a=40, b=40, c=40)
    used(c)
    assert names(own_cache) == ["b", "c"]
    filled(own_cache, a=40)
    used(b)
    assert names(own_cache) == ["b", "c"]
    used(b)
    assert names(own_cache) == ["b", "c"]
    filled(own_cache, huge=1000)
    used(a.with_name("huge"))
    assert names(own_cache) == ["huge"]


def test_what_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many texts, how many bytes, and the limit, which is two gigabytes unless a variable says otherwise."""
    monkeypatch.delenv("MLX_TINYLM_CACHE_GB", raising=False)
    assert (kept().texts, kept().bytes, kept().limit) == (0, 0, 2 * 10**9)
    filled(own_cache, a=40, b=2)
    (own_cache / "ids" / ".half.tmp").write_bytes(b"left behind")
    assert (kept().texts, kept().bytes) == (2, 42)
    assert kept().folder == own_cache / "ids"
    for value in ("much", "nan"):
        monkeypatch.setenv("MLX_TINYLM_CACHE_GB", value)
        with pytest.raises(TinyLMError, match=f"MLX_TINYLM_CACHE_GB: '{value}' is not a number of gigabytes"):
            kept()
