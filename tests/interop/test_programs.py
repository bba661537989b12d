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
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.export.folder import export
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import Quantization
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import tensor_shapes
from mlx_tinylm.model_folder.tokenizer_config import tokenizer_config
from mlx_tinylm.text.tokenizer import END_OF_TEXT

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


def stays_a_character_model(folder: Path, parent: Path) -> None:
    """The tokenizer that another tool saved again names what it does not know, and its export is the one of before."""
    tokenizer = open_folder(folder).tokenizer
    with pytest.raises(TinyLMError, match="the model does not know 'é'"):
        tokenizer.encode("café")
    again = export(folder, parent / "again", gguf=True).folder
    assert json.loads((again / "tokenizer_config.json").read_text()) == tokenizer_config(256, END_OF_TEXT)


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
    stays_a_character_model(out, tmp_path)
    assert open_folder(out).config.quantization == Quantization(bits=4, group_size=32)
    opens_everywhere(out)


@pytest.mark.parametrize(("family", "bits"), [("gpt2", 3), ("gpt2", 5), ("qwen3", 2), ("qwen3", 6)])
def test_every_width(family: str, bits: int, folders: dict[str, Path], tmp_path: Path) -> None:
    """Whatever affine width mlx_lm.convert packs a folder in, it opens here."""
    out = tmp_path / "converted"
    options = ["-q", "--q-group-size", 32, "--q-bits", bits, "--dtype", "float32"]
    program("mlx_lm.convert", "--hf-path", folders[family], "--mlx-path", out, *options)
    assert open_folder(out).config.quantization == Quantization(bits, 32)
    opens_everywhere(out)


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_other_modes(mode: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder that mlx_lm.convert packed in another way is refused with the list of what opens."""
    out = tmp_path / "converted"
    program("mlx_lm.convert", "--hf-path", folders["qwen3"], "--mlx-path", out, "-q", "--q-mode", mode)
    with pytest.raises(TinyLMError, match=f"mode is '{mode}'; what opens here is affine, with 2, 3, 4, 5, 6, 8 bits"):
        open_folder(out)


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
    stays_a_character_model(fused, tmp_path)
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


def test_chat_server(folders: dict[str, Path]) -> None:
    """mlx_lm.server's chat goes on from what was typed, all messages together, with no names of its own between."""
    asked: dict[str, object] = {"max_tokens": LENGTH, "temperature": 0}
    for family in FAMILIES:
        text = greedy(folders[family])
        with server(folders[family]) as address:
            for contents in (["ROMEO:"], ["RO", "ME", "O:"]):
                roles = ["user", "assistant", "user"]
                messages = [{"role": role, "content": c} for role, c in zip(roles, contents, strict=False)]
                answer = json.loads(ask(f"{address}/v1/chat/completions", asked | {"messages": messages}))
                assert answer["choices"][0]["message"]["content"] == text
                assert answer["usage"]["prompt_tokens"] == len("ROMEO:")


def test_chat_in_a_terminal(folders: dict[str, Path]) -> None:
    """mlx_lm.chat writes the greedy text that follows what was typed."""
    options = ["--temp", "0", "--max-tokens", str(LENGTH), "--model", folders["qwen3"]]
    command = [Path(sys.executable).with_name("mlx_lm.chat"), *options]
    done = subprocess.run(command, input="ROMEO:\nq\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert greedy(folders["qwen3"]) in done.stdout
