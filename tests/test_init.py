"""The public names of the package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import PLAIN, write_text

import mlx_tinylm
from mlx_tinylm.run_folder.events import Baselines, Evaluated, Saved, Stepped


def test_all_names_are_there() -> None:
    """Each public name can be had, and no other."""
    assert all(getattr(mlx_tinylm, name) for name in mlx_tinylm.__all__)
    with pytest.raises(AttributeError, match="module 'mlx_tinylm' has no attribute 'fit'"):
        _ = mlx_tinylm.fit


def test_public_names_are_listed() -> None:
    """`dir(mlx_tinylm)`, which completion reads, has the public names before anyone has asked for them."""
    code = "import mlx_tinylm, sys; print(dir(mlx_tinylm), 'mlx_tinylm.generation' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, imported = done.stdout.rsplit(maxsplit=1)
    found = set(ast.literal_eval(names))
    assert {name for name in found if not name.startswith("__")} == {*mlx_tinylm.__all__} - {"__version__"}
    assert {"__version__", "__doc__", "__name__"} <= found
    assert imported == "False"


@pytest.mark.usefixtures("own_cache")
def test_train(tmp_path: Path) -> None:
    """A few lines of Python train, say what happens, and write with the result; mistakes are the program's own."""
    folder, text = tmp_path / "model", write_text(tmp_path / "text.txt")
    settings = PLAIN.to_json() | {"steps": 4}
    events = list(mlx_tinylm.train(text, out=folder, **settings))
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4]
    assert {type(event) for event in events} == {Stepped, Evaluated, Saved, Baselines}
    assert "".join(mlx_tinylm.stream_generate(*mlx_tinylm.load(folder), "The", max_tokens=5))
    tuned = mlx_tinylm.train(
        [str(text)], "nano", out=tmp_path / "tuned", init_from=str(folder), steps=1, sample_every=None
    )
    assert [type(event) for event in tuned] == [Evaluated, Stepped, Saved, Baselines, Evaluated]
    for message, more in [
        ("has something in it already", {}),
        ("no preset 'huge'", {"preset": "huge"}),
        ("steps must be a whole number", {"steps": 0}),
        ("no setting stepz; there are tokenizer, vocab_size, family", {"stepz": 5}),
        ("minutes decide how many steps there are", {"minutes": 2}),
        ("out must be a path, not 5", {"out": 5}),
        ("out must be a path, not ''", {"out": ""}),
        ("force must be True or False, not 'no'", {"force": "no"}),
        ("no preset \\['nano'\\]", {"preset": ["nano"]}),
    ]:
        with pytest.raises(mlx_tinylm.TinyLMError, match=message):
            next(mlx_tinylm.train([text], **{"out": folder, **settings, **more}))
    for data in (None, 5, [5], [None], {"book.txt"}):
        with pytest.raises(mlx_tinylm.TinyLMError, match=r"^data must be a (text or a list|path)"):
            next(mlx_tinylm.train(data, out=folder))
    with pytest.raises(mlx_tinylm.TinyLMError, match="minutes must be a number above 0"):
        next(mlx_tinylm.train(text, out=tmp_path / "timed", minutes="2"))
