"""mlx-lm's own programs on an exported folder, as a person runs them; each result is read back here.

The models are random, so the text is gibberish, but greedy gibberish is the same everywhere.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from other_tools import (
    check_close,
    exported,
    mlx_lm_logits,
    mlx_lm_model,
    program,
    some_ids,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import Quantization
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import tensor_shapes

LENGTH = 40
FAMILIES = ["gpt2", "qwen3"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A float32 export of each family."""
    parent = tmp_path_factory.mktemp("programs")
    return {family: exported(family, parent) for family in FAMILIES}


def greedy(folder: Path, backend: str = "numpy") -> str:
    model, tokenizer = load(folder, backend)
    return generate(model, tokenizer, "ROMEO:", max_tokens=LENGTH, temperature=0)


def mlx_lm_generate(folder: Path) -> list[str]:
    """What mlx_lm.generate prints about "ROMEO:", in the pieces in which it prints it; greedy is its default."""
    arguments = ["--prompt", "ROMEO:", "--ignore-chat-template", "--max-tokens", str(LENGTH), "--model"]
    path = Path(sys.executable).with_name("mlx_lm.generate")
    pieces = []
    with subprocess.Popen([path, *arguments, folder], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(4096):
            pieces.append(piece.decode())
    assert process.returncode == 0
    return pieces


def opens_everywhere(folder: Path) -> None:
    """The folder that mlx-lm wrote has mlx-lm's logits on both our back ends."""
    ids = some_ids(96, 100)
    expected = mlx_lm_logits(mlx_lm_model(folder), ids)
    for backend in ("mlx", "numpy"):
        model, _ = load(folder, backend)
        check_close(model.logits(ids), expected, backend)


@pytest.mark.parametrize(
    ("family", "options"),
    [("gpt2", {}), ("gpt2", {"quantize": 4, "dtype": "float32"}), ("qwen3", {"quantize": 8, "dtype": "float32"})],
)
def test_generate(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    """mlx_lm.generate writes the greedy text that we write, as it is made and not at the end."""
    folder = exported(family, tmp_path, **options)
    text = greedy(folder)
    assert len(text) == LENGTH
    pieces = mlx_lm_generate(folder)
    assert re.split(r"^=+\n", "".join(pieces), flags=re.MULTILINE)[1] == f"{text}\n"
    assert len(pieces) > LENGTH / 2


@pytest.mark.parametrize("family", FAMILIES)
def test_convert(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """mlx_lm.convert -q takes an exported folder, and what it writes opens here."""
    out = tmp_path / "converted"
    program("mlx_lm.convert", "--hf-path", folders[family], "--mlx-path", out, "-q", "--q-group-size", 32)
    assert open_folder(out).config.quantization == Quantization(bits=4, group_size=32)
    opens_everywhere(out)


def test_convert_leaves_out_what_groups_do_not_fill(tmp_path: Path) -> None:
    """A folder in which mlx_lm.convert quantised only the matrices that its groups divide opens here."""
    folder = exported("qwen3", tmp_path)  # hidden is 96: down_proj alone cannot be in groups of 64
    program("mlx_lm.convert", "--hf-path", folder, "--mlx-path", tmp_path / "converted", "-q")
    shapes = tensor_shapes(open_folder(tmp_path / "converted").config)
    assert "model.layers.0.mlp.up_proj.scales" in shapes
    assert "model.layers.0.mlp.down_proj.scales" not in shapes
    opens_everywhere(tmp_path / "converted")


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_then_fuse(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """mlx_lm.lora trains on an exported folder, mlx_lm.fuse joins the result, and the fused folder opens here."""
    data, adapters, fused = tmp_path / "data", tmp_path / "adapters", tmp_path / "fused"
    data.mkdir()
    for split in ("train", "valid"):
        line = json.dumps({"text": "ROMEO: The quality of mercy is not strained."})
        (data / f"{split}.jsonl").write_text(f"{line}\n" * 4)
    options = {"iters": 3, "batch-size": 2, "num-layers": 2, "learning-rate": 0.01, "val-batches": 1}
    given = [item for name, value in options.items() for item in (f"--{name}", value)]
    common = ["--model", folders[family], "--adapter-path", adapters]
    program("mlx_lm.lora", *common, "--train", "--data", data, *given, cwd=tmp_path)
    program("mlx_lm.fuse", *common, "--save-path", fused, cwd=tmp_path)
    opens_everywhere(fused)
    (before, _), (after, _) = load(folders[family], "numpy"), load(fused, "numpy")
    ids = some_ids(96, 20)
    assert np.abs(before.logits(ids) - after.logits(ids)).max() > 0.01  # it did learn something


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of mlx_lm.server on this machine alone, answering."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = Path(sys.executable).with_name("mlx_lm.server")
    command = [path, "--model", folder, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None
                assert time.monotonic() < deadline
                with contextlib.suppress(OSError):
                    ask(f"http://127.0.0.1:{port}/health")
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def ask(address: str, body: dict[str, object] | None = None) -> bytes:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def test_server(folders: dict[str, Path]) -> None:
    """mlx_lm.server answers /v1/completions with our greedy text, at once and streamed."""
    text = greedy(folders["gpt2"])
    body: dict[str, object] = {"prompt": "ROMEO:", "max_tokens": LENGTH, "temperature": 0}
    with server(folders["gpt2"]) as address:
        answer = json.loads(ask(f"{address}/v1/completions", body))
        streamed = ask(f"{address}/v1/completions", body | {"stream": True}).decode()
    assert answer["choices"][0]["text"] == text
    events = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == text
    assert len(events) > LENGTH / 2
