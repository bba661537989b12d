"""`data`, `info` and `bench`: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]


def test_data(invoke: Invoke) -> None:
    """The corpora that have a name are listed with what they are."""
    result = invoke("data")
    assert result.exit_code == 0
    assert re.search(r"^tinyshakespeare  \S", result.stdout, re.M)


def test_info(invoke: Invoke, made: Path) -> None:
    """The system's facts come first, the model's after, its tensors last; as JSON it is one object with the same."""
    table = invoke("info", "model").stdout
    assert re.search(r"^python +3\.\d+\.\d+$", table, re.M)
    assert re.search(r"^cpu cores +\d+$", table, re.M)
    assert table.index("python") < table.index("\nfamily") < table.index("\n\nln_f.weight")
    known = json.loads(invoke("info", "model", "--json").stdout)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in known)
    assert (known["family"], known["width"], known["tensors"]["ln_f.bias"]["shape"]) == ("gpt2", 16, [16])
    assert "tensors" not in json.loads(invoke("info", "--json").stdout)
    assert "\n\n" not in invoke("info").stdout
