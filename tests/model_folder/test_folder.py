"""A model folder is read strictly: what is wrong is named in one line, and nothing else ever happens."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
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
from tiny_models import GPT2, every_family

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.generation import generate
from mlx_tinylm.model_folder.config import ModelConfig, Quantization
from mlx_tinylm.model_folder.folder import INDEX, WEIGHTS, open_folder, read_tensors, shipped_weights, write_folder
from mlx_tinylm.model_folder.layout import tensor_shapes, transposed
from mlx_tinylm.text.tokenizer import Tokenizer

FILES = ("config.json", "tokenizer.json", WEIGHTS)
EACH_FILE = pytest.mark.parametrize("name", FILES)
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


def change(folder: Path, **changes: object) -> None:
    """Change keys of config.json."""
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def refused(folder: Path) -> str:
    """The one line that refuses a folder within a second, after the folder's name."""
    started = time.process_time()
    with pytest.raises(TinyLMError) as error:
        open_folder(folder).tensors()
    assert time.process_time() - started < 1
    message = str(error.value)
    assert message.startswith(str(folder))
    assert message.isprintable()  # so it is one line, too
    assert len(message) < 700 + len(str(folder))
    return message.removeprefix(str(folder))


# A whole folder


@every_family
def test_round_trip(config: ModelConfig, folder: Path) -> None:
    """A folder has the files other tools look for, and is read back the same, the tensors bit for bit."""
    assert {path.name for path in folder.iterdir()} == {*FILES, "tokenizer_config.json", "generation_config.json"}
    raw = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert raw["config.json"]["eos_token_id"] == raw["generation_config.json"]["eos_token_id"] == 12
    opened = open_folder(folder)
    assert opened.config == config
    assert opened.tokenizer.alphabet == "".join(map(chr, range(32, 44)))
    expected = random_tensors(config)
    tensors = opened.tensors()
    assert tensors.keys() == expected.keys() == tensor_shapes(config).keys()
    for name in expected:
        assert tensors[name].dtype == np.float32
        assert tensors[name].tobytes() == expected[name].tobytes(), name


def test_code_in_a_folder_is_never_run(folder: Path) -> None:
    """Keys that make other tools import a file from the folder, and the file, are left alone, with a note."""
    change(folder, auto_map={"AutoModelForCausalLM": "evil.Model"}, model_file="evil.py")
    (folder / "evil.py").write_text("raise SystemExit('run')")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    for backend in ("numpy", "mlx"):
        with pytest.warns(UserWarning, match="auto_map and model_file ignored; no code from a model folder is ever"):
            load(folder, backend)
    assert "evil" not in sys.modules


def test_no_folder(tmp_path: Path) -> None:
    """A path that is nothing, or a file, is answered with the command that makes a model."""
    assert refused(tmp_path / "no") == f": no such folder. Train one: mlx-tinylm train --out {tmp_path / 'no'}"
    (tmp_path / "file").write_text("x")
    assert refused(tmp_path / "file").startswith(": not a model folder but a file. Train one: ")


def test_shipped_weights(tmp_path: Path) -> None:
    """The shipped model is found beside the package and inside it; where it is not, that is said."""
    package = tmp_path / "package"
    with pytest.raises(TinyLMError, match=r"no weights came with this installation. Train your own: mlx-tinylm train"):
        shipped_weights(package)
    for place in (package / "shipped" / "shakespeare", tmp_path / "weights" / "shakespeare"):
        random_folder(place, GPT2)
        assert shipped_weights(package) == place
    assert open_folder(shipped_weights()).tokenizer.encode("Hello") == [20, 43, 50, 50, 53]


# generation_config.json


@every_family
def test_suppressed_ids(config: ModelConfig, tmp_path: Path) -> None:
    """Ids that are never to be drawn stand in generation_config.json, if there are any; nothing else there counts."""
    for suppressed in ((), (12,), (0, 3, 12)):
        folder = random_folder(tmp_path / "model", replace(config, suppressed=suppressed))
        raw = json.loads((folder / "generation_config.json").read_text())
        assert raw.get("suppress_tokens", "none") == (list(suppressed) or "none")
        assert open_folder(folder).config == replace(config, suppressed=suppressed)
    for text in ('{"suppress_tokens": null, "temperature": 9}', '{"suppress_tokens": []}', "{}", None):
        (folder / "generation_config.json").unlink()
        if text:
            (folder / "generation_config.json").write_text(text)
        assert open_folder(folder).config.suppressed == ()
    (folder / "generation_config.json").write_text('{"suppress_tokens": [12, 3, 12]}')
    assert open_folder(folder).config.suppressed == (3, 12)
    for backend in ("numpy", "mlx"):
        text = generate(*load(folder, backend), "!", max_tokens=300, temperature=3.0, seed=1)
        assert len(text) == 300  # 12 is the end of a text
        assert "#" not in text  # 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"suppress_tokens": 12}', "suppress_tokens must be a list of ids, not 12"),
        ('{"suppress_tokens": false}', "suppress_tokens must be a list of ids, not False"),
        ('{"suppress_tokens": {"a": 1}}', "suppress_tokens must be a list of ids, not {'a': 1}"),
        ('{"suppress_tokens": ["a"]}', "suppress_tokens must be a list of ids, not ['a']"),
        ('{"suppress_tokens": [[1]]}', "suppress_tokens must be a list of ids, not [[1]]"),
        ('{"suppress_tokens": [true]}', "suppress_tokens must be a list of ids, not [True]"),
        ('{"suppress_tokens": [1.0]}', "suppress_tokens must be a list of ids, not [1.0]"),
        ('{"suppress_tokens": [-1]}', "an id of suppress_tokens must be a whole number from 0 to 12, not -1"),
        ('{"suppress_tokens": [3, 13]}', "an id of suppress_tokens must be a whole number from 0 to 12, not 13"),
        (
            f'{{"suppress_tokens": [1{"0" * 400}]}}',
            "an id of suppress_tokens must be a whole number from 0 to 12, not 1",
        ),
        (f'{{"suppress_tokens": {[*range(13)]}}}', "suppress_tokens names every id, which leaves none to write"),
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 10**5, "not valid JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_wrong_suppressed_ids(content: str, message: str, folder: Path) -> None:
    """What another's file rules out must be a list of ids that the model has; what is not is refused by its name."""
    (folder / "generation_config.json").write_text(content)
    assert refused(folder).startswith(f"/generation_config.json: {message}")


# Damaged files

DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("{"),
    "no-text": lambda path: path.write_bytes(b"\xff" * 40),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text("[]"),
    "object": lambda path: path.write_text("{}"),
    "long-number": lambda path: path.write_text("1" * 5000),
    "brackets": lambda path: path.write_text("[" * 10**5),
    "folder": lambda path: path.mkdir(),
    "device": lambda path: path.symlink_to(os.devnull),
    "link-to-nothing": lambda path: path.symlink_to("nothing"),
}


@EACH_FILE
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files(name: str, damage: Callable[[Path], object], folder: Path) -> None:
    """A file that is missing, damaged, or a device that might never end, is refused by its name."""
    (folder / name).unlink()
    damage(folder / name)
    if (folder / name).exists():
        assert refused(folder).startswith(f"/{name}: ")
    else:
        message = refused(folder)
        assert message.startswith(f": no {name} here")
        assert "Train" in message or "copy it" in message


@EACH_FILE
def test_both_back_ends_refuse(name: str, folder: Path) -> None:
    """Neither back end opens what is damaged."""
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    for backend in ("numpy", "mlx"):
        with pytest.raises(TinyLMError, match=rf"/{name}: "):
            load(folder, backend)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@EACH_FILE
def test_flipped_bytes(name: str, data: st.DataObject, folder: Path) -> None:
    """Bytes changed anywhere give a model that writes text, its tensors whole, or one line, and nothing else."""
    content = bytearray((random_folder(folder.parent / "original", GPT2) / name).read_bytes())
    end = 1000 if name == WEIGHTS and data.draw(st.booleans()) else len(content)  # often in the header
    bytes_there = st.integers(0, 255) if name == WEIGHTS else st.sampled_from(b'0129-.eE{}[]",:\\ nt\0\xff')
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(bytes_there)
    (folder / name).write_bytes(content)
    message = "a line"
    try:
        opened = open_folder(folder)
        assert opened.tokenizer.vocab_size <= opened.config.vocab_size
        tensors = opened.tensors()
        assert {name: tensor.shape for name, tensor in tensors.items()} == tensor_shapes(opened.config)
        assert all(np.isfinite(tensor).all() and tensor.dtype == np.float32 for tensor in tensors.values())
        for backend in ("numpy", "mlx"):
            generate(*load(folder, backend), opened.tokenizer.opening, max_tokens=2, seed=1)
    except TinyLMError as error:
        message = str(error)
    assert message.isprintable()


# Files of different models


def test_tokenizer_of_another_model(folder: Path) -> None:
    """A tokenizer with more ids than the embedding has rows, counted by its largest id, came from another model."""
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(Tokenizer.from_alphabet("".join(map(chr, range(32, 45)))).json)
    assert refused(folder) == ": tokenizer.json has 14 ids, config.json only 13; they belong to different models"
    raw = json.loads(text)
    raw["model"]["vocab"]["~"] = 10**9
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert refused(folder).startswith(": tokenizer.json has 1000000001 ids")


def test_a_smaller_alphabet(folder: Path) -> None:
    """An embedding may have rows that no token uses, but the end of a text is the same id to both files."""
    (folder / "tokenizer.json").write_text(Tokenizer.from_alphabet("abc").json)
    change(folder, eos_token_id=3)
    assert open_folder(folder).tokenizer.alphabet == "abc"
    change(folder, eos_token_id=5)
    assert refused(folder).startswith(": a text ends with id 3 in tokenizer.json, with 5 in config.json")


@pytest.mark.parametrize("key", ["n_layer", "n_embd", "vocab_size", "n_positions"])
def test_a_large_claim_costs_nothing(key: str, folder: Path) -> None:
    """A config.json that claims a huge model is compared with the tensors before anything is allocated."""
    change(folder, **{key: 1000 if key == "n_layer" else 10**7})
    assert "does not fit its config.json: " in refused(folder)


# Tensors


@every_family
def test_wrong_tensors_are_listed(config: ModelConfig, folder: Path) -> None:
    """Missing, unknown and mis-shaped tensors are all in one message, by name; of many, eight and the number of all."""
    tensors = random_tensors(config)
    first, second, *_ = tensors
    del tensors[first]
    tensors[second] = tensors[second][:-1]
    tensors["extra.weight"] = np.zeros(3, np.float32)
    store(folder, tensors)
    problems = [f"{second} has shape {tensors[second].shape}, not {tensor_shapes(config)[second]}"]
    problems += [f"missing {first}", "unknown extra.weight"]
    assert refused(folder) == f": does not fit its config.json: {', '.join(sorted(problems))}"
    store(folder, {f"x{i}": np.zeros(1, np.float32) for i in range(3)})
    message = refused(folder)
    assert message.endswith(f", and {len(tensor_shapes(config)) + 3 - 8} more")
    assert message.count("missing ") + message.count("unknown ") == 8


NOT_FINITE = "holds numbers that are not finite; the weights are damaged"
NO_VECTOR: list[tuple[npt.NDArray[Any], str]] = [  # the numbers in the place of a vector of 16, and what is said
    *((np.zeros(s, np.float32), f"has shape {s}, not (16,)") for s in ((), (0,), (16, 1), (1, 16), (4, 4))),
    *((np.ones(16, dtype), "is of type ") for dtype in (np.float64, np.int8, np.int32, np.int64)),
    *((np.ones(16, dtype), "has the wrong type, ") for dtype in (np.uint8, np.uint32, np.uint64, np.bool_)),
    *((np.full(16, value, np.float32), NOT_FINITE) for value in (np.nan, np.inf, -np.inf)),
    (np.array([1] * 15 + [np.inf], np.float16), NOT_FINITE),
]


@pytest.mark.parametrize(("tensor", "expected"), NO_VECTOR)
def test_wrong_numbers(tensor: npt.NDArray[Any], expected: str, folder: Path) -> None:
    """Numbers in another shape, of a type that no weight has, or not finite, are refused by the tensor's name."""
    store(folder, random_tensors(GPT2) | {"ln_f.bias": tensor})
    assert f": ln_f.bias {expected}" in refused(folder)


def test_floats_are_no_packed_numbers(tmp_path: Path) -> None:
    """In a quantised folder a matrix must be packed, its scales and biases floats."""
    config = replace(GPT2, width=32, quantization=Quantization(4, 32))
    folder = random_folder(tmp_path / "model", config)
    open_folder(folder).tensors()
    for name, dtype in (("wte.weight", np.float32), ("wte.scales", np.uint32)):
        tensors = random_tensors(config)
        store(folder, tensors | {name: tensors[name].astype(dtype)})
        assert refused(folder) == f": {name} has the wrong type, {np.dtype(dtype)}"


@every_family
def test_heads(config: ModelConfig, folder: Path) -> None:
    """A second copy of the matrix that embedding and head are tied by is left out; an untied model needs its own."""
    tensors = random_tensors(config)
    store(folder, tensors | {"lm_head.weight": np.zeros((13, 16), np.float32)})
    assert open_folder(folder).tensors().keys() == tensors.keys()
    store(folder, tensors)
    write_folder(folder, replace(config, tied=False), Tokenizer.load(folder))
    assert refused(folder) == ": does not fit its config.json: missing lm_head.weight"


@pytest.mark.parametrize("prefix", ["transformer.", "model."])
def test_gpt2_of_other_tools(prefix: str, folder: Path) -> None:
    """GPT-2 opens as transformers stores it, (in, out), and as mlx-lm does, (out, in) under another prefix."""
    tensors = random_tensors(GPT2)
    theirs = transposed(tensors) if prefix == "model." else tensors
    theirs = {f"{prefix}{name}": np.ascontiguousarray(tensor) for name, tensor in theirs.items()}
    store(folder, theirs)
    read = read_tensors(folder, GPT2)
    assert all((read[name] == tensors[name]).all() for name in tensors)
    store(folder, theirs | {"wte.weight": tensors["wte.weight"]})
    assert refused(folder) == f"/{WEIGHTS}: holds wte.weight a second time"
    theirs[f"transformer.{prefix}wte.weight"] = theirs.pop(f"{prefix}wte.weight")
    store(folder, theirs)
    assert refused(folder).endswith(f": missing wte.weight, unknown {prefix}wte.weight")


def test_masks_of_old_files_are_left_out(folder: Path) -> None:
    """OpenAI's GPT-2 file also stores a causal mask a layer; masks of layers that are not there are unknown."""
    tensors = random_tensors(GPT2)
    masks = {f"h.{layer}.attn.bias": np.tri(8, dtype=np.uint8)[None, None] for layer in range(2)}
    masks |= {f"h.{layer}.attn.masked_bias": np.full((), -1e4, np.float32) for layer in range(2)}
    store(folder, tensors | masks)
    assert read_tensors(folder, GPT2).keys() == tensors.keys()
    store(folder, tensors | {"h.2.attn.bias": masks["h.1.attn.bias"]})
    assert "unknown h.2.attn.bias" in refused(folder)


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
    """Tensors spread over files are read as from one; a missing shard, and a tensor in two shards, are named."""
    shards = shard(folder)
    tensors = random_tensors(GPT2)
    assert all((tensor == tensors[name]).all() for name, tensor in read_tensors(folder, GPT2).items())
    first, second = sorted(set(shards.values()))
    shutil.copy(folder / first, folder / second)
    assert "a second time" in refused(folder)
    (folder / second).unlink()
    assert refused(folder) == f"/{second}: no such file"
    index(folder, dict.fromkeys(shards, first))
    assert "does not fit its config.json: missing " in refused(folder)


OUTSIDE = ["../other/x.safetensors", "..", ".", "", "/etc/passwd", "a/../x", "sub/x.safetensors", "x\0", "\ud800"]


@pytest.mark.parametrize("name", [*OUTSIDE, "a" * 9999], ids=lambda name: ascii(name)[:30])
def test_index_points_outside(name: str, folder: Path, tmp_path: Path) -> None:
    """An index can name files of its own folder only, by names that files can have."""
    shards = shard(folder)
    for place in (folder / "sub", tmp_path / "other"):
        place.mkdir()
        store(place, random_tensors(GPT2), "x.safetensors")
    index(folder, shards | {"wte.weight": name})
    assert refused(folder).startswith(f"/{INDEX}: names a file outside this folder: ")


def test_links(folder: Path, tmp_path: Path) -> None:
    """The one file may be a link, as in the download cache of Hugging Face; a shard only to a file of its folder."""
    (folder / WEIGHTS).rename(tmp_path / "blob")
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    open_folder(folder).tensors()
    first = min(shard(folder).values())
    (folder / first).rename(folder / "inside")
    (folder / first).symlink_to("inside")
    open_folder(folder).tensors()
    (folder / "inside").rename(tmp_path / "outside")
    (folder / first).unlink()
    (folder / first).symlink_to(tmp_path / "outside")
    assert refused(folder).startswith(f"/{INDEX}: names a file outside this folder: ")
    (folder / first).unlink()
    (folder / first).symlink_to(first)
    assert refused(folder).startswith(f"/{first}: cannot be read (")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 10**5])
def test_broken_index(content: str, folder: Path) -> None:
    """An index that maps nothing to files is named; where it names no file, all tensors are missing."""
    shard(folder)
    (folder / INDEX).write_text(content)
    assert refused(folder).startswith(f"/{INDEX}: ")
    index(folder, {})
    assert "missing " in refused(folder)
