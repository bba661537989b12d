"""A GGUF that `export` wrote, in llama.cpp itself."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import random_folder, random_tensors

from mlx_tinylm.backend.choose import load
from mlx_tinylm.export.folder import export
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Qwen3Config
from mlx_tinylm.model_folder.folder import write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.text.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install -e '.[gguf]'")
pytest.importorskip("xllamacpp", reason="llama.cpp's Python package is not installed: pip install -e '.[interop]'")

# One to four bytes a character, and pairs that begin alike.
ALPHABET = "\n\t !'09AELMORaelt~¡ÉéñЖ日本語€😀😁"
PROMPT = "ROMEO:\n\n  é日 😀'l 😁\t".replace(":", "!")
SHARED: dict[str, Any] = {"vocab_size": len(ALPHABET) + 3, "context": 64, "width": 64, "layers": 2}
GPT2 = GPT2Config(heads=4, eos_ids=(len(ALPHABET),), **SHARED)
QWEN3 = Qwen3Config(heads=6, kv_heads=2, head_dim=32, hidden=96, eos_ids=(len(ALPHABET),), rope_theta=500.0, **SHARED)
CASES: dict[str, tuple[ModelConfig, str]] = {
    "gpt2": (GPT2, "float32"),
    "gpt2-untied-bfloat16": (replace(GPT2, tied=False), "bfloat16"),
    "qwen3": (replace(QWEN3, kv_heads=6), "float32"),
    "qwen3-untied-float16": (replace(QWEN3, tied=False, norm_eps=1e-3), "float16"),
}

# In a process of its own: llama.cpp prints at length, and a file it dislikes may end it.
LLAMA_CPP = """
import json, sys, urllib.request
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.cpuparams.n_threads, params.warmup = sys.argv[1], 64, 1, False
server = xllamacpp.Server(params)
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def ask(what, **body):
    request = urllib.request.Request(f"{server.listening_address}/{what}", json.dumps(body).encode())
    return json.load(direct.open(request, timeout=60))

ids = ask("tokenize", content=sys.argv[2])["tokens"]
text = ask("completion", prompt=sys.argv[2], n_predict=30, temperature=0)["content"]
print("\\nANSWERS" + json.dumps([ids, text]))
"""


def check_llama_cpp(folder: Path, prompt: str) -> None:
    """llama.cpp gives our ids for the prompt, and goes on with our greedy text."""
    model, tokenizer = load(folder, "numpy")
    text = generate(model, tokenizer, prompt, max_tokens=30, temperature=0)
    command = [sys.executable, "-c", LLAMA_CPP, str(folder / "model.gguf"), prompt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.rsplit("ANSWERS", 1)[1])
    assert answers == [tokenizer.encode(prompt), text]


@pytest.mark.parametrize(("config", "dtype"), CASES.values(), ids=CASES)
def test_both_families(config: ModelConfig, dtype: str, tmp_path: Path) -> None:
    """llama.cpp writes our greedy text, and reads characters of one to four bytes as one id each."""
    write_folder(tmp_path, config, Tokenizer.from_alphabet(ALPHABET))
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    check_llama_cpp(export(tmp_path, tmp_path / "out", dtype, gguf=True).folder, PROMPT)


def test_plain_characters(tmp_path: Path) -> None:
    """It does so for an alphabet whose characters are one byte each, where there is nothing to merge."""
    source = random_folder(tmp_path / "source", replace(GPT2, vocab_size=96, eos_ids=(95,)))
    check_llama_cpp(export(source, tmp_path / "out", gguf=True).folder, "ROMEO: speak  again")
