"""A GGUF that `export` wrote, in llama.cpp itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from conftest import random_folder, random_tensors
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Inner

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

ids = [ask("tokenize", content=text)["tokens"] for text in sys.argv[2:]]
text = ask("completion", prompt=sys.argv[2], n_predict=30, temperature=0)["content"]
messages = [{"role": "user", "content": sys.argv[2]}]
chat = ask("v1/chat/completions", messages=messages, max_tokens=30, temperature=0)
typed = ask("apply-template", messages=messages)["prompt"]
print("\\nANSWERS" + json.dumps([ids, text, chat["choices"][0]["message"]["content"], typed]))
"""


def check_llama_cpp(folder: Path, prompt: str, *more: str) -> None:
    """llama.cpp gives our ids for the prompt and `more` texts, and goes on with our greedy text, in a chat as well."""
    model, tokenizer = load(folder, "numpy")
    text = generate(model, tokenizer, prompt, max_tokens=30, temperature=0)
    command = [sys.executable, "-c", LLAMA_CPP, str(folder / "model.gguf"), prompt, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = json.loads(done.stdout.rsplit("ANSWERS", 1)[1])
    assert answers[0] == [tokenizer.encode(each) for each in (prompt, *more)]
    assert answers[1:] == [text, text, prompt]


@pytest.mark.parametrize(("config", "dtype"), CASES.values(), ids=CASES)
def test_both_families(config: ModelConfig, dtype: str, tmp_path: Path) -> None:
    """llama.cpp writes our greedy text, and reads characters of one to four bytes as one id each."""
    write_folder(tmp_path, config, Tokenizer.from_alphabet(ALPHABET))
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    check_llama_cpp(export(tmp_path, tmp_path / "out", dtype, gguf=True).folder, PROMPT)


TEXT = "The end: it's 12 o'clock, they'll say.\n\n  Two  spaces \t; "
TEXT += "日本語 😀 👩‍👩‍👧 naïve e\u0301\r\nHELLO hello 1234567 'tis --- ..."
TEXTS = [
    TEXT,
    "  ",
    "\n\n\na",
    "don't DON'T",
    "😀😀",
    "\u3000x\xa0y",
    "a , b . c !",
    "٣٤ ²③ Ⅻ",
    "#include <a>\n\tint x;\n",
]


def subwords(config: ModelConfig) -> Tokenizer:
    """A byte-level BPE that fills the vocabulary of `config`."""
    text = "\n".join(topics[name] for name in sorted(topics))[:100_000]
    return Tokenizer.from_texts([text, TEXT * 3], config.vocab_size)


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=["gpt2", "qwen3"])
def test_subwords(config: ModelConfig, untied: bool, tmp_path: Path) -> None:
    """Of subwords llama.cpp has our ids, for text of every kind, and our greedy text, under the name gpt-2."""
    config = replace(config, vocab_size=700, eos_ids=(698,), tied=not untied)
    tokenizer = subwords(config)
    write_folder(tmp_path, config, tokenizer)
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    out = export(tmp_path, tmp_path / "out", gguf=True).folder
    fields = gguf.GGUFReader(out / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert (fields["tokenizer.ggml.eos_token_id"].contents(), fields["tokenizer.ggml.padding_token_id"].contents()) == (
        698,
        699,
    )
    check_llama_cpp(out, "The 日本 it's  😀 end", *TEXTS)


SPLITS = {
    "qwen2": r"|\p{N}| ?",
    "llama-bpe": r"|\p{N}{1,3}| ?",
}


@pytest.mark.parametrize("pre", SPLITS)
def test_subwords_of_other_tools(pre: str, tmp_path: Path) -> None:
    """Of a tokenizer that splits as Qwen's or Llama 3's do, llama.cpp has our ids as well, added tokens included."""
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+" + SPLITS[pre]
    pattern += r"[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    inner = subwords(replace(GPT2, vocab_size=600)).inner
    by_pattern = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([by_pattern, by_bytes])
    inner.add_tokens(["<think>", "two  words"])
    raw = json.loads(inner.to_str())
    raw["model"]["ignore_merges"] = pre == "llama-bpe"
    tokenizer = Tokenizer(Inner.from_str(json.dumps(raw)))
    config = replace(QWEN3, vocab_size=610, eos_ids=(598,))
    write_folder(tmp_path, config, tokenizer)
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    out = export(tmp_path, tmp_path / "out", gguf=True).folder
    assert gguf.GGUFReader(out / "model.gguf").fields["tokenizer.ggml.pre"].contents() == pre
    check_llama_cpp(out, "The 日本 it's  😀 end", *TEXTS, "a<think>b two  words c", "<|endoftext|>")


def test_characters_of_several_documents(tmp_path: Path) -> None:
    """Where what pads is no end of a text, llama.cpp is told so, and has our ids and text."""
    tokenizer = Tokenizer.from_alphabet(ALPHABET, pads=True)
    config = replace(GPT2, vocab_size=tokenizer.vocab_size, eos_ids=(tokenizer.eos_id or 0,))
    write_folder(tmp_path, config, tokenizer)
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    out = export(tmp_path, tmp_path / "out", gguf=True).folder
    fields = gguf.GGUFReader(out / "model.gguf").fields
    ids = (fields["tokenizer.ggml.eos_token_id"].contents(), fields["tokenizer.ggml.padding_token_id"].contents())
    assert ids == (len(ALPHABET), len(ALPHABET) + 1)
    check_llama_cpp(out, PROMPT)


def test_an_extended_alphabet(tmp_path: Path) -> None:
    """Characters that a model learned later, behind the end of a text, have our ids in llama.cpp as well."""
    tokenizer = Tokenizer.from_alphabet(ALPHABET).extended("25жü€語😂", pads=True)
    config = replace(QWEN3, vocab_size=tokenizer.vocab_size)
    write_folder(tmp_path, config, tokenizer)
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    check_llama_cpp(export(tmp_path, tmp_path / "out", gguf=True).folder, "O 25!9ж日 ü😂😀", PROMPT)


def test_plain_characters(tmp_path: Path) -> None:
    """It does so for an alphabet whose characters are one byte each, where there is nothing to merge."""
    source = random_folder(tmp_path / "source", replace(GPT2, vocab_size=96, eos_ids=(95,)))
    check_llama_cpp(export(source, tmp_path / "out", gguf=True).folder, "ROMEO: speak  again")


def test_metadata(tmp_path: Path) -> None:
    """The file says what it is called, of which type most of its numbers are, that nothing goes before a text."""
    source = random_folder(tmp_path / "source", replace(GPT2, vocab_size=96, eos_ids=(95,)))
    types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    template = json.loads((source / "tokenizer_config.json").read_text())["chat_template"]
    for dtype, expected in types.items():
        reader = gguf.GGUFReader(export(source, tmp_path / f"my {dtype}", dtype, gguf=True).folder / "model.gguf")
        said = {name: field.contents() for name, field in reader.fields.items() if "tokens" not in name}
        assert said["general.name"] == f"my {dtype}"
        assert said["general.file_type"] == gguf.LlamaFileType[expected]
        assert said["tokenizer.ggml.add_bos_token"] is False
        assert said["tokenizer.ggml.padding_token_id"] == said["tokenizer.ggml.eos_token_id"] == 95
        assert said["tokenizer.chat_template"] == template


# llama.cpp's own functions, as other programs are linked with them. Its structure of options is passed by value; all
# that has to be known of it is that it is smaller than this.
DETOKENIZE = """
import ctypes, glob, json, sys
import xllamacpp
lib = ctypes.CDLL(glob.glob(f"{xllamacpp.__path__[0]}/xllamacpp.*")[0])
class Options(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 1024)]
pointer, whole, flag = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
lib.llama_model_default_params.restype = Options
lib.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Options]
lib.llama_model_load_from_file.restype = pointer
lib.llama_model_get_vocab.argtypes, lib.llama_model_get_vocab.restype = [pointer], pointer
lib.llama_detokenize.argtypes = [pointer, pointer, whole, pointer, whole, flag, flag]
lib.llama_backend_init()
model = lib.llama_model_load_from_file(sys.argv[1].encode(), lib.llama_model_default_params())
vocab, room, texts = lib.llama_model_get_vocab(model), ctypes.create_string_buffer(10_000), []
for ids in json.loads(sys.argv[2]):
    size = lib.llama_detokenize(vocab, (whole * len(ids))(*ids), len(ids), room, 10_000, False, False)
    texts.append(room.raw[:size].decode())
print("\\nANSWERS" + json.dumps(texts))
"""
ALPHABETS = {
    "Latin": "\n\t !'(),.0123456789?:;abcdstremlvABC\"-",
    "accents": "aeéèe\u0301\u0308 ñ,.'\n",
    "Hebrew and Arabic": "שלוםעו ,.!مرحبا\u064b\n",
    "Chinese, Japanese, Korean": "日本語かなカナ、。 ,.\n한국어",
    "emoji": "😀👩\u200d👧🏽🇩🇪 ,.\n",
    "Hindi and Thai": "नमस्ते สวัสดี ,.\n१२",
    "control characters": "\r\n\t\x0b\x0c\x1b\x7f\x85\xa0\u2028\ufeff\u3000 a,.",
}


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS)
def test_every_space_comes_back(alphabet: str, tmp_path: Path) -> None:
    """Ids become the very text again in every alphabet, spaces before commas and full stops included."""
    config = replace(GPT2, vocab_size=len(set(alphabet)) + 1, eos_ids=(len(set(alphabet)),))
    write_folder(tmp_path, config, Tokenizer.from_alphabet(alphabet))
    write_tensors(tmp_path / "model.safetensors", random_tensors(config))
    out = export(tmp_path, tmp_path / "out", gguf=True).folder
    tokenizer, chosen = Tokenizer.load(out), random.Random(0)
    texts = ["".join(chosen.choices([*alphabet, " ", " ,", " ."], k=60)) for _ in range(30)]
    ids = json.dumps([tokenizer.encode(text) for text in texts])
    command = [sys.executable, "-c", DETOKENIZE, str(out / "model.gguf"), ids]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.rsplit(b"ANSWERS", 1)[1]) == texts
