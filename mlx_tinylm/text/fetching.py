"""Texts at an address, fetched once into the cache."""

from __future__ import annotations

from pathlib import Path


def is_address(item: str) -> bool:
    """Whether an item of `--data` is to be fetched over the network."""
    return item.lower().startswith(("http://", "https://"))


def fetched(url: str) -> Path:
    raise NotImplementedError
