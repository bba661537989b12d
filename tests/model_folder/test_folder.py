"""A model folder is read strictly: what is wrong is named in one line, and nothing else ever happens."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from conftest import random_folder, random_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig, Quantization, Qwen3Config
from mlx_tinylm.model_folder.folder import (
    INDEX,
    WEIGHTS,
    open_folder,
    read_tensors,
    shipped_weights,
    tensor_shapes,
    transposed,
    write_folder,
)
from mlx_tinylm.text.tokenizer import Tokenizer

GPT2 = GPT2Config(vocab_size=13, context=8, width=16, layers=2, heads=2, eos_ids=(12,))
QWEN3 = Qwen3Config(
    vocab_size=13, context=8, width=16, layers=2, heads=2, kv_heads=1, head_dim=6, hidden=20, eos_ids=(12,)
)
BOTH: list[ModelConfig] = [GPT2, QWEN3]
every_family = pytest.mark.parametrize("config", BOTH, ids=lambda config: config.family)
Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture
def config() -> ModelConfig:
    return GPT2


@pytest.fixture
def folder(tmp_path: Path, config: ModelConfig) -> Path:
    """A whole model folder with random weights."""
    return random_folder(tmp_path / "model", config)


def store(folder: Path, tensors: Arrays, name: str = WEIGHTS) -> None:
    safetensors.numpy.save_file(tensors, folder / name)


def store_raw(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> None:
    """Write a safetensors file byte by byte, whatever is wrong with it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def refused(folder: Path) -> str:
    """The one line that refuses a folder, on either back end and within a second."""
    started = time.process_time()
    with pytest.raises(TinyLMError) as error:
        load(folder, "numpy")
    assert time.process_time() - started < 1
    message = str(error.value)
    assert message.startswith(str(folder))
    assert message.isprintable()  # so it is one line, too
    assert len(message) < 700 + len(str(folder))
    with pytest.raises(TinyLMError) as error:
        load(folder, "mlx")
    assert str(error.value).startswith(message[: len(str(folder)) + 10])  # which of two tensors is named may differ
    return message.removeprefix(str(folder))


# A whole folder


@every_family
def test_round_trip(config: ModelConfig, folder: Path) -> None:
    """A written folder is read back: the same configuration, alphabet and tensors, bit for bit."""
    opened = open_folder(folder)
    assert opened.config == config
    assert opened.tokenizer.alphabet == "".join(map(chr, range(32, 44)))
    expected = random_tensors(config)
    tensors = opened.tensors()
    assert tensors.keys() == expected.keys() == tensor_shapes(config).keys()
    for name in expected:
        assert tensors[name].dtype == np.float32
        assert tensors[name].tobytes() == expected[name].tobytes(), name


@every_family
def test_small_files(config: ModelConfig, folder: Path) -> None:
    """The folder has the files other tools look for, and they agree about the end of a text."""
    names = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", WEIGHTS}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 12
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 12
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|endoftext|>"
    assert Tokenizer.load(folder).eos_id == 12


def test_code_in_a_folder_is_never_run(folder: Path) -> None:
    """Keys that make other tools import a file from the folder, and the file, are left alone, with a note."""
    raw = json.loads((folder / "config.json").read_text())
    raw |= {"auto_map": {"AutoModelForCausalLM": "evil.Model"}, "model_file": "evil.py"}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    for backend in ("numpy", "mlx"):
        with pytest.warns(UserWarning, match="auto_map and model_file ignored; no code from a model folder is ever"):
            load(folder, backend)
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_missing_files(name: str, folder: Path) -> None:
    """A folder without one of its files says which, and what to do."""
    (folder / name).unlink()
    message = refused(folder)
    assert message.startswith(f": no {name} here")
    assert "Train" in message or "copy it" in message


def test_no_folder(tmp_path: Path) -> None:
    """A path that is nothing, or a file, is answered with the command that makes a model."""
    assert refused(tmp_path / "no") == f": no such folder. Train one: mlx-tinylm train --out {tmp_path / 'no'}"
    (tmp_path / "file").write_text("x")
    assert refused(tmp_path / "file").startswith(": not a model folder but a file. Train one: ")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xff", b"{}", b'{"model_type": NaN}', b"1" * 5000]
)
def test_config_that_is_none(content: bytes, folder: Path) -> None:
    """A config.json that is no JSON, or no configuration, is named."""
    (folder / "config.json").write_bytes(content)
    assert refused(folder).startswith("/config.json: ")


def test_files_that_are_none(folder: Path) -> None:
    """A folder or a device in a file's place is refused instead of read, which might never end."""
    for name in ("config.json", "tokenizer.json", WEIGHTS):
        saved = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).symlink_to(os.devnull)
        assert refused(folder) == f"/{name}: not a file"
        (folder / name).unlink()
        (folder / name).mkdir()
        assert refused(folder).startswith(f"/{name}: cannot be read (")
        (folder / name).rmdir()
        (folder / name).write_bytes(saved)
    load(folder, "numpy")


def test_tokenizer_of_another_model(folder: Path) -> None:
    """A tokenizer with more ids than the embedding has rows is refused, counted by its largest id."""
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(Tokenizer.from_alphabet("".join(map(chr, range(32, 45)))).json)
    expected = ": tokenizer.json has 14 ids, config.json only 13; they belong to different models"
    assert refused(folder) == expected
    raw = json.loads(text)
    raw["model"]["vocab"]["~"] = 10**9
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert refused(folder).startswith(": tokenizer.json has 1000000001 ids")


def test_fewer_tokens_than_ids_are_fine(folder: Path) -> None:
    """An embedding may have rows that no token uses, as those of published models do."""
    (folder / "tokenizer.json").write_text(Tokenizer.from_alphabet("abc").json)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": 3}))
    assert load(folder, "numpy")[1].alphabet == "abc"


def test_another_end_of_text_is_another_model(folder: Path) -> None:
    """A smaller alphabet whose end of text is not that of config.json came from another model."""
    (folder / "tokenizer.json").write_text(Tokenizer.from_alphabet("abc").json)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"eos_token_id": 5}))
    assert refused(folder).startswith(": a text ends with id 3 in tokenizer.json, with 5 in config.json")


@pytest.mark.parametrize(
    "changes",
    [{"n_layer": 1000}, {"n_embd": 10**7, "n_head": 1}, {"vocab_size": 10**7}, {"n_positions": 10**7}],
    ids=str,
)
def test_a_large_claim_costs_nothing(changes: dict[str, int], folder: Path) -> None:
    """A config.json that claims a huge model is compared with the tensors before anything is allocated."""
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))
    assert "does not fit its config.json: " in refused(folder)


# Tensors


@every_family
def test_wrong_tensors_are_listed(config: ModelConfig, folder: Path) -> None:
    """Missing, unknown and mis-shaped tensors are all in one message, by name."""
    tensors = random_tensors(config)
    first, second, *_ = tensors
    del tensors[first]
    tensors[second] = tensors[second][:-1]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    store(folder, tensors)
    shape = tensor_shapes(config)[second]
    problems = [
        f"{second} has shape {tensors[second].shape}, not {shape}",
        f"missing {first}",
        "unknown extra.weight",
    ]
    assert refused(folder) == f": does not fit its config.json: {', '.join(sorted(problems))}"


def test_long_lists_are_cut(folder: Path) -> None:
    """Of many wrong tensors eight are named and the rest counted."""
    store(folder, {f"x{i}": np.zeros(1, np.float32) for i in range(3)})
    total = len(tensor_shapes(GPT2)) + 3
    message = refused(folder)
    assert message.endswith(f", and {total - 8} more")
    assert message.count("missing ") + message.count("unknown ") == 8


@pytest.mark.parametrize("shape", [(), (0,), (16, 1), (1, 16), (4, 4)])
def test_shapes_must_be_equal(shape: tuple[int, ...], folder: Path) -> None:
    """The same numbers in another shape, no numbers, or a scalar do not pass for a vector of 16."""
    store(folder, random_tensors(GPT2) | {"ln_f.bias": np.zeros(shape, np.float32)})
    assert refused(folder) == f": does not fit its config.json: ln_f.bias has shape {shape}, not (16,)"


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint32, np.uint64, np.bool_])
def test_wrong_types(dtype: Any, folder: Path) -> None:
    """Numbers that are no 16- or 32-bit floats are no weights."""
    store(folder, random_tensors(GPT2) | {"ln_f.bias": np.ones(16, dtype)})
    message = refused(folder)
    assert "ln_f.bias" in message
    assert "type" in message


def test_floats_are_no_packed_numbers(tmp_path: Path) -> None:
    """In a quantised folder a matrix must be packed, its scales and biases floats."""
    config = replace(GPT2, width=32, quantization=Quantization(4, 32))
    folder = random_folder(tmp_path / "model", config)
    load(folder, "numpy")
    for name, dtype in (("wte.weight", np.float32), ("wte.scales", np.uint32)):
        tensors = random_tensors(config)
        store(folder, tensors | {name: tensors[name].astype(dtype)})
        assert refused(folder) == f": {name} has the wrong type, {np.dtype(dtype)}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numbers_that_are_none(value: float, dtype: Any, folder: Path) -> None:
    """One number that is not finite, anywhere, in either type, is reported with its tensor."""
    tensors = random_tensors(GPT2)
    tensors["h.1.mlp.c_fc.weight"][3, 5] = value
    store(folder, {name: tensor.astype(dtype) for name, tensor in tensors.items()})
    assert refused(folder) == ": h.1.mlp.c_fc.weight holds numbers that are not finite; the weights are damaged"


def test_nan_in_bfloat16(folder: Path) -> None:
    """NaN and infinity are found in bfloat16 as well."""
    for bits in (0x7F80, 0xFF80, 0x7FC0):
        header, data = bfloat16_file(random_tensors(GPT2))
        store_raw(folder / WEIGHTS, header, data[:-2] + struct.pack("<H", bits))
        assert "holds numbers that are not finite" in refused(folder)


def bfloat16_file(tensors: Arrays) -> tuple[dict[str, Any], bytes]:
    """Header and data with each number cut to its upper half."""
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        half = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(half)],
        }
        data += half
    return header, data


def test_every_bfloat16_number_is_widened_exactly(tmp_path: Path) -> None:
    """Each finite bfloat16 there is, zeros and subnormals included, becomes the float32 of that value."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers)].reshape(-1, 256)
    config = GPT2Config(vocab_size=len(numbers), context=1, width=256, layers=1, heads=1)
    tensors = random_tensors(config) | {"wte.weight": numbers}
    store_raw(tmp_path / WEIGHTS, *bfloat16_file(tensors))
    read = read_tensors(tmp_path, config)
    assert read["wte.weight"].dtype == np.float32
    assert read["wte.weight"].tobytes() == numbers.tobytes()


def test_every_float16_number_is_widened_exactly(tmp_path: Path) -> None:
    """Each finite float16 there is becomes the float32 of that value."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)].reshape(-1, 256)
    config = GPT2Config(vocab_size=len(numbers), context=1, width=256, layers=1, heads=1)
    tensors = {name: tensor.astype(np.float16) for name, tensor in random_tensors(config).items()}
    store(tmp_path, tensors | {"wte.weight": numbers})
    wte = read_tensors(tmp_path, config)["wte.weight"]
    exact = [struct.unpack("<e", half.tobytes())[0] for half in numbers.reshape(-1)[::97]]
    assert wte.reshape(-1)[::97].tolist() == exact
    assert (np.signbit(wte) == np.signbit(numbers)).all()
    assert (wte.astype(np.float16).view(np.uint16) == numbers.view(np.uint16)).all()


def test_a_second_head_of_a_tied_model(folder: Path) -> None:
    """Some tools store the matrix that embedding and head share twice: the copy is left out."""
    tensors = random_tensors(GPT2)
    store(folder, tensors | {"lm_head.weight": tensors["wte.weight"].copy()})
    assert read_tensors(folder, GPT2).keys() == tensors.keys()


@every_family
def test_an_untied_model_needs_its_head(config: ModelConfig, folder: Path) -> None:
    """Where head and embedding differ, the head is a tensor like any other."""
    write_folder(folder, replace(config, tied=False), Tokenizer.load(folder))
    assert refused(folder) == ": does not fit its config.json: missing lm_head.weight"


def test_names_with_transformers_prefix(folder: Path) -> None:
    """transformers puts `transformer.` before GPT-2's names; both spellings at once are refused."""
    tensors = random_tensors(GPT2)
    store(folder, {f"transformer.{name}": tensor for name, tensor in tensors.items()})
    read = read_tensors(folder, GPT2)
    assert all((read[name] == tensors[name]).all() for name in tensors)
    store(folder, tensors | {"transformer.wte.weight": tensors["wte.weight"]})
    assert refused(folder) == f"/{WEIGHTS}: holds wte.weight a second time"
    tensors["transformer.transformer.wte.weight"] = tensors.pop("wte.weight")
    store(folder, tensors)
    assert refused(folder).endswith(": missing wte.weight, unknown transformer.wte.weight")


def test_masks_of_old_files_are_left_out(folder: Path) -> None:
    """OpenAI's GPT-2 file also stores a causal mask a layer; masks of layers that are not there are unknown."""
    tensors = random_tensors(GPT2)
    masks = {f"h.{layer}.attn.bias": np.tri(8, dtype=np.uint8)[None, None] for layer in range(2)}
    masks |= {f"h.{layer}.attn.masked_bias": np.full((), -1e4, np.float32) for layer in range(2)}
    store(folder, tensors | masks)
    assert read_tensors(folder, GPT2).keys() == tensors.keys()
    store(folder, tensors | {"h.2.attn.bias": masks["h.1.attn.bias"]})
    assert "unknown h.2.attn.bias" in refused(folder)


def test_transposition_is_its_own_inverse() -> None:
    """GPT-2's four matrices a block change between (in, out) and (out, in), and nothing else does."""
    tensors = random_tensors(GPT2)
    turned = transposed(tensors)
    changed = {name for name in tensors if turned[name].shape != tensors[name].shape}
    assert changed == {f"h.{n}.{m}.weight" for n in (0, 1) for m in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")}
    assert (turned["h.0.attn.c_proj.weight"] == tensors["h.0.attn.c_proj.weight"].T).all()
    assert (turned["wte.weight"] == tensors["wte.weight"]).all()
    assert all((again == tensors[name]).all() for name, again in transposed(turned).items())


# Several files


def shard(folder: Path, parts: int = 2) -> dict[str, str]:
    """Spread the tensors over several files with an index; the weight map, for tests to spoil."""
    tensors = random_tensors(GPT2)
    shards = {name: f"model-{i % parts + 1:05d}-of-{parts:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(shards.values()):
        store(folder, {name: tensors[name] for name in tensors if shards[name] == file}, file)
    (folder / WEIGHTS).unlink(missing_ok=True)
    index(folder, shards)
    return shards


def index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(folder: Path) -> None:
    """Tensors spread over files are read as from one."""
    shard(folder, 3)
    tensors = random_tensors(GPT2)
    assert all((tensor == tensors[name]).all() for name, tensor in read_tensors(folder, GPT2).items())
    load(folder, "mlx")


def test_shards_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    """A missing shard, and a tensor in two shards, are named."""
    shards = shard(folder)
    first, second = sorted(set(shards.values()))
    shutil.copy(folder / first, folder / second)
    assert "a second time" in refused(folder)
    (folder / second).unlink()
    assert refused(folder) == f"/{second}: no such file"
    index(folder, dict.fromkeys(shards, first))
    assert "does not fit its config.json: missing " in refused(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../other/x.safetensors",
        "..",
        ".",
        "",
        "/etc/passwd",
        "a/../x",
        "sub/x.safetensors",
        "x\0",
        "\ud800",
        "a" * 9999,
    ],
    ids=lambda name: ascii(name)[:30],
)
def test_index_points_outside(name: str, folder: Path, tmp_path: Path) -> None:
    """An index can name files of its own folder only, by names that files can have."""
    shards = shard(folder)
    (folder / "sub").mkdir()
    (tmp_path / "other").mkdir()
    for place in (folder / "sub", tmp_path / "other"):
        store(place, random_tensors(GPT2), "x.safetensors")
    index(folder, shards | {"wte.weight": name})
    assert refused(folder).startswith(f"/{INDEX}: names a file outside this folder: ")


def test_shards_that_are_links(folder: Path, tmp_path: Path) -> None:
    """A shard that is a link out of the folder, or a link to itself, is refused; one inside works."""
    shards = shard(folder)
    first, *_ = sorted(set(shards.values()))
    (folder / first).rename(folder / "inside")
    (folder / first).symlink_to("inside")
    load(folder, "numpy")
    (folder / "inside").rename(tmp_path / "outside")
    (folder / first).unlink()
    (folder / first).symlink_to(tmp_path / "outside")
    assert refused(folder).startswith(f"/{INDEX}: names a file outside this folder: ")
    (folder / first).unlink()
    (folder / first).symlink_to(first)
    assert refused(folder).startswith(f"/{first}: cannot be read (")


def test_one_file_as_a_link(folder: Path, tmp_path: Path) -> None:
    """The one file may be a link, as in the download cache of Hugging Face."""
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    load(folder, "numpy")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 10**5])
def test_broken_index(content: str, folder: Path) -> None:
    """An index that maps nothing to files is named."""
    shard(folder)
    (folder / INDEX).write_text(content)
    assert refused(folder).startswith(f"/{INDEX}: ")


def test_empty_index(folder: Path) -> None:
    """An index without a file leaves all tensors missing."""
    shard(folder)
    index(folder, {})
    assert "missing " in refused(folder)


# Damaged and hostile safetensors


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (entry(), b"\0" * 16, 2**63),
        (entry(), b"\0" * 16, 2**64 - 1),
        (entry(), b"\0" * 16, 10**8 + 1),
        (entry(), b"\0" * 16, 3),
        (entry(), b"\0" * 15, None),
        (entry(), b"\0" * 17, None),
        (entry(), b"", None),
        (b"", b"", None),
        (b"\xff" * 40, b"", None),
        (b"[" * 5000, b"", None),
        (b"{" * 5000, b"", None),
        (b'{"a": 1}', b"", None),
        (b"null", b"", None),
        (entry(dtype="F31"), b"\0" * 16, None),
        (entry(dtype="\n\x1b[2J"), b"\0" * 16, None),
        (entry(dtype=7), b"\0" * 16, None),
        (entry(dtype="x" * 5000), b"\0" * 16, None),
        (entry(shape=[-2, -2]), b"\0" * 16, None),
        (entry(shape=[2**32, 2**32]), b"\0" * 16, None),
        (entry(shape=[2**63, 2, 4]), b"\0" * 16, None),
        (entry(shape=[2.0, 2]), b"\0" * 16, None),
        (entry(shape=[10**30]), b"\0" * 16, None),
        (entry(shape=[5]), b"\0" * 16, None),
        (entry(shape="22"), b"\0" * 16, None),
        (entry(data_offsets=[0, 32]), b"\0" * 16, None),
        (entry(data_offsets=[16, 0]), b"\0" * 16, None),
        (entry(data_offsets=[-16, 0]), b"\0" * 16, None),
        (entry(data_offsets=[8, 24]), b"\0" * 24, None),
        (entry(data_offsets=[2**64 - 16, 2**64]), b"\0" * 16, None),
        (entry(data_offsets=[0]), b"\0" * 16, None),
        (entry() | {"b": entry()["a"]}, b"\0" * 16, None),  # overlapping
        (entry() | {"__metadata__": 3}, b"\0" * 16, None),
        (entry() | {"__metadata__": {"a": {"b": "c"}}}, b"\0" * 16, None),
    ],
)
def test_hostile_headers(header: dict[str, Any] | bytes, data: bytes, length: int | None, folder: Path) -> None:
    """Headers that lie about sizes, types, places and themselves are refused with the file's name."""
    store_raw(folder / WEIGHTS, header, data, length)
    assert refused(folder).startswith(f"/{WEIGHTS}: not a safetensors file, or damaged (")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "I16", "I8", "F64", "C64"])
def test_types_the_format_knows_and_weights_do_not(dtype: str, folder: Path) -> None:
    """A type of the format that is none of a weight is refused by its name."""
    size = {"I16": 2, "F64": 8, "C64": 8}.get(dtype, 1)
    store_raw(folder / WEIGHTS, entry(dtype=dtype, shape=[4], data_offsets=[0, 4 * size]), b"\0" * 4 * size)
    expected = f"/{WEIGHTS}: a is of type {dtype}; weights are float32, float16 or bfloat16"
    assert refused(folder) == expected


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "x" * 5000, "\u202e"], ids=lambda name: ascii(name)[:10])
def test_hostile_names(name: str, folder: Path) -> None:
    """A tensor's name reaches the terminal neither with control characters nor at endless length."""
    store(folder, random_tensors(GPT2) | {name: np.zeros(1, np.float32)})
    assert refused(folder).startswith(f"/{WEIGHTS}: holds a tensor called ")


def test_truncated_anywhere(folder: Path) -> None:
    """A file cut short at any place is refused."""
    content = (folder / WEIGHTS).read_bytes()
    places = [*range(0, 24), *np.linspace(24, len(content) - 1, 40, dtype=int).tolist()]
    for place in places:
        (folder / WEIGHTS).write_bytes(content[:place])
        with pytest.raises(TinyLMError, match=r"not a safetensors file, or damaged \("):
            read_tensors(folder, GPT2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes(data: st.DataObject, folder: Path) -> None:
    """Bytes changed anywhere give whole, finite tensors of the right shapes, or one line, and nothing else."""
    path = folder / WEIGHTS
    original = random_folder(folder.parent / "original", GPT2) / WEIGHTS
    content = bytearray(original.read_bytes())
    end = len(content) if data.draw(st.booleans()) else 1000
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    message, tensors = "a line", None
    try:
        tensors = read_tensors(folder, GPT2)
    except TinyLMError as error:
        message = str(error)
    assert message.isprintable()
    if tensors is not None:
        assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(GPT2)
        assert all(np.isfinite(tensor).all() and tensor.dtype == np.float32 for tensor in tensors.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_flipped_characters(name: str, data: st.DataObject, folder: Path) -> None:
    """Text files changed anywhere open as a model or end in one line."""
    original = random_folder(folder.parent / "original", GPT2) / name
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(b'0129-.eE{}[]",:\\ nt\0\xff'))
    (folder / name).write_bytes(content)
    message = "a line"
    try:
        opened = open_folder(folder)
        assert opened.tokenizer.vocab_size <= opened.config.vocab_size
        for backend in ("numpy", "mlx"):
            generate(*load(folder, backend), opened.tokenizer.opening, max_tokens=2, seed=1)
    except TinyLMError as error:
        message = str(error)
    assert message.isprintable()


def test_messages_are_escaped() -> None:
    """What a message quotes cannot act on a terminal; other characters stay as they are."""
    assert str(TinyLMError("a\x1b[2J\x07é\u202e\udc80😀\nb")) == "a\\x1b[2J\\x07é\\u202e\\udc80😀\nb"


def test_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model is found in a checkout and in an installed package; where it is not, that is said."""
    monkeypatch.setattr("mlx_tinylm.model_folder.folder.__file__", str(tmp_path / "package" / "weights.py"))
    with pytest.raises(TinyLMError, match=r"no weights came with this installation. Train your own: mlx-tinylm train"):
        shipped_weights()
    for place in (tmp_path / "package" / "shipped" / "shakespeare", tmp_path / "weights" / "shakespeare"):
        random_folder(place, GPT2)
        assert shipped_weights() == place
