"""Train a tiny language model from scratch with Apple MLX, and use it anywhere.

import mlx_tinylm
model, tokenizer = mlx_tinylm.load("weights/shakespeare")
for text in mlx_tinylm.stream_generate(model, tokenizer, "ROMEO:", max_tokens=200):
    print(text, end="", flush=True)
"""

from __future__ import annotations

TYPE_CHECKING = False  # to type checkers it is True; until __main__ has seen to Ctrl-C, each import is a risk
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from mlx_tinylm.backend.choose import load
    from mlx_tinylm.errors import TinyLMError
    from mlx_tinylm.generation import generate, stream_generate
    from mlx_tinylm.run_folder.events import Event
    from mlx_tinylm.sample_config import SampleConfig

__version__ = "0.1.0"
__all__ = ["SampleConfig", "TinyLMError", "__version__", "generate", "load", "stream_generate", "train"]

_HOMES = {
    "SampleConfig": "sample_config",
    "TinyLMError": "errors",
    "generate": "generation",
    "load": "backend.choose",
    "stream_generate": "generation",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only when it is asked for, so that `import mlx_tinylm` stays fast (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, those that nobody has asked for yet too, and what every module has."""
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})


def train(
    data: str | Path | Sequence[str | Path] = (),
    preset: str = "tiny",
    *,
    out: Path | str | None = None,
    device: str = "auto",
    init_from: Path | str | None = None,
    force: bool = False,
    minutes: float | None = None,
    val_data: str | Path | Sequence[str | Path] = (),
    encoding: str = "utf-8",
    raw: bool = False,
    extend_alphabet: bool = False,
    **settings: Any,
) -> Iterator[Event]:
    """Train a model in the folder `out`, or a fresh weights/run-N, and yield what happens (run_folder/events.py).

        for event in mlx_tinylm.train("book.txt", out="weights/mine", steps=500):
            print(event)

    Nothing is done before the first event is asked for; where the loop is left early, `mlx-tinylm train --resume` goes
    on from the last checkpoint. `data` and `val_data`, one text or several, and all else are as for `mlx-tinylm train`,
    with None for off. The model folder can be opened at any time; the events that are Saved say where it is.
    Raises TinyLMError for what cannot be, and where a loss is not finite or a disk is full.
    """
    from pathlib import Path

    from mlx_tinylm.backend.devices import prepare
    from mlx_tinylm.checks import check
    from mlx_tinylm.run_folder import presets
    from mlx_tinylm.text.reading import Reading

    paths: list[tuple[str, Any]] = [("out", out), ("init_from", init_from)]
    texts: dict[str, list[str]] = {}
    for name, given in (("data", data), ("val_data", val_data)):
        items = [given] if isinstance(given, (str, Path)) else given
        check(isinstance(items, (list, tuple)), f"{name} must be a text or a list of texts: names of corpora, or paths")
        paths += [(name, item or 0) for item in items]
        texts[name] = list(map(str, items))
    check(isinstance(encoding, str) and isinstance(raw, bool), "encoding must be a name, and raw True or False")
    for name, value in paths:
        known = value is None or (isinstance(value, (str, Path)) and value != "")
        check(known, f"{name} must be a path, not {value!r:.80}")
    config, reading = presets.preset(preset, **settings), Reading(encoding, raw)
    compute = prepare(device, spread=True)  # before MLX is imported, as it is by what follows
    from mlx_tinylm.training import run

    with run.start(
        compute,
        Path(out) if out else None,
        config,
        texts["data"],
        reading=reading,
        val_data=texts["val_data"],
        init_from=Path(init_from) if init_from else None,
        force=force,
        given=settings.keys(),
        minutes=minutes,
        extend_alphabet=extend_alphabet,
    ) as running:
        yield from running.events()
