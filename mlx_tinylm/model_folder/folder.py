"""A model folder: config.json, the tokenizer and model.safetensors, read strictly and written atomically.

Tensors are NumPy arrays under their stored names; float16 and bfloat16 are widened to float32 on reading,
so both back ends compute alike. Nothing is ever unpickled, and no code from a folder is ever run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_tinylm.checks import brief
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.files import read_json, to_json, write_atomically
from mlx_tinylm.model_folder.config import GPT2Config, ModelConfig
from mlx_tinylm.model_folder.config_json import (
    generation_config_to_json,
    model_config_from_json,
    model_config_to_json,
    suppressed_from_json,
)
from mlx_tinylm.model_folder.layout import Shape, tensor_shapes, transposed
from mlx_tinylm.model_folder.tensor_files import Tensors, read_safetensors, stored_types
from mlx_tinylm.model_folder.tokenizer_config import tokenizer_config
from mlx_tinylm.model_folder.trained_on import TextRecord
from mlx_tinylm.text.tokenizer import TOKENIZER_CONFIG, Tokenizer

PACKAGE = Path(__file__).parents[1]
WEIGHTS = "model.safetensors"
SHIPPED = "shakespeare"
GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
CODE = ("auto_map", "model_file")  # keys of config.json with which other tools load code from the folder
# What other tools put before the names of GPT-2's tensors; the stored layout here has no prefix.
TRANSFORMERS_PREFIX, MLX_LM_PREFIX = "transformer.", "model."


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose config.json and tokenizer have been read and agree."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer

    def tensors(self) -> Tensors:
        """All tensors in the stored layout; raises TinyLMError listing those that do not fit the config."""
        return read_tensors(self.path, self.config)

    def types(self) -> dict[str, str]:
        """How the numbers of each tensor that `tensors` gave are stored, before they were widened."""
        types: dict[str, str] = {}
        for file in _tensor_files(self.path):
            for name, type in stored_types(file).items():
                gpt2 = isinstance(self.config, GPT2Config)
                types[name.removeprefix(MLX_LM_PREFIX).removeprefix(TRANSFORMERS_PREFIX) if gpt2 else name] = type
        return types


def shipped_weights(package: Path = PACKAGE) -> Path:
    """The folder of the Shakespeare model: in a checkout, beside the package, or inside it, where it was installed."""
    for folder in (package.parent / "weights" / SHIPPED, package / "shipped" / SHIPPED):
        if (folder / WEIGHTS).exists():
            return folder
    raise TinyLMError("no weights came with this installation. Train your own: mlx-tinylm train --out weights/mine")


def open_folder(path: Path) -> ModelFolder:
    """Read everything but the tensors; raises TinyLMError saying which file is missing or wrong."""
    try:
        there = path.is_dir()
    except OSError as error:  # a name longer than any may be, or behind a folder that may not be entered
        raise TinyLMError(f"{brief(str(path))}: cannot be opened ({error.strerror})") from None
    if not there:
        what = "not a model folder but a file" if path.exists() else "no such folder"
        raise TinyLMError(f"{path}: {what}. Train one: mlx-tinylm train --out {path}")
    config = read_config(path)
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise TinyLMError(
            f"{path}: tokenizer.json has {tokenizer.vocab_size} ids, config.json only {config.vocab_size}; "
            "they belong to different models"
        )
    # Padding may make the table larger than the tokenizer, but the end of a text is the same id to both.
    if tokenizer.alphabet is not None and config.eos_ids and tokenizer.eos_id not in (None, *config.eos_ids):
        raise TinyLMError(
            f"{path}: a text ends with id {tokenizer.eos_id} in tokenizer.json, with {config.eos_ids[0]} in "
            "config.json; they belong to different models"
        )
    return ModelFolder(path, config, tokenizer)


def read_config(folder: Path) -> ModelConfig:
    """The configuration in `config.json`, and the ids that `generation_config.json` rules out, where that is there.

    Raises TinyLMError naming the file and the key. Warns where it names Python code, which is ignored.
    """
    path = folder / "config.json"
    if folder.is_file():
        raise TinyLMError(f"{folder}: is a file, not a model folder; name the folder that it lies in, or another")
    if folder.parent.name == "checkpoints" and not path.exists():
        raise TinyLMError(f"{folder}: is a checkpoint, not a model folder; the run is {folder.parent.parent}")
    if not path.exists():
        raise TinyLMError(f"{folder}: no config.json here. Train a model: mlx-tinylm train --out {folder}")
    with _named(path):
        raw = read_json(path)
        config = model_config_from_json(raw)
    generation = folder / GENERATION
    if generation.exists():
        with _named(generation):
            config = dataclasses.replace(config, suppressed=suppressed_from_json(read_json(generation)))
    if code := [key for key in CODE if key in raw]:
        warnings.warn(f"{path}: {' and '.join(code)} ignored; no code from a model folder is ever run", stacklevel=2)
    return config


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let what is wrong with a file begin with its name."""
    try:
        yield
    except TinyLMError as error:
        message = str(error)
        raise TinyLMError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def write_folder(
    folder: Path, config: ModelConfig, tokenizer: Tokenizer, dtype: str = "float32", text: TextRecord | None = None
) -> None:
    """Write the small files of a model folder, everything but the tensors, which are to be of type `dtype`.

    `text` is what the model was trained on, where no record of a run will stand beside it.
    """
    raw = model_config_to_json(config) | (text.to_json() if text else {})
    # transformers 5 reads dtype; transformers 4 and mlx-lm read torch_dtype
    write_atomically(folder / "config.json", to_json(raw | {"dtype": dtype, "torch_dtype": dtype}))
    write_atomically(folder / "tokenizer.json", tokenizer.json)
    eos_id = config.eos_ids[0] if config.eos_ids else tokenizer.eos_id
    eos, pad = (None if id is None else tokenizer.inner.id_to_token(id) for id in (eos_id, tokenizer.pad_id))
    write_atomically(folder / TOKENIZER_CONFIG, to_json(tokenizer_config(config.context, eos, pad)))
    write_atomically(folder / GENERATION, to_json(generation_config_to_json(config)))


def read_tensors(folder: Path, config: ModelConfig) -> Tensors:
    """All tensors in the stored layout, float32 (uint32 where quantised).

    Raises TinyLMError listing missing, unknown and mis-shaped tensors by name, or naming one that holds no weights.
    """
    found: Tensors = {}
    for file in _tensor_files(folder):
        for name, tensor in read_safetensors(file).items():
            if isinstance(config, GPT2Config):
                name, tensor = _gpt2_stored(name, tensor)
            if name in found:
                raise TinyLMError(f"{file}: holds {name} a second time")
            found[name] = tensor
    for name in _surplus(config):
        found.pop(name, None)
    return fitting(folder, config, found)


def fitting(place: Path, config: ModelConfig, found: Tensors) -> Tensors:
    """The tensors that were found in a place, in the order of the layout; raises TinyLMError as `read_tensors` does."""
    wanted = tensor_shapes(config)
    _check_shapes(place, wanted, found)
    for name in wanted:
        packed = f"{name.removesuffix('weight')}scales" in wanted and name.endswith(".weight")
        if found[name].dtype != (np.uint32 if packed else np.float32):
            raise TinyLMError(f"{place}: {name} has the wrong type, {found[name].dtype}")
        if not packed and not np.isfinite(found[name]).all():
            raise TinyLMError(f"{place}: {name} holds numbers that are not finite; the weights are damaged")
    return {name: found[name] for name in wanted}


def _surplus(config: ModelConfig) -> list[str]:
    """Tensors that other tools store, and that say nothing: a copy of the tied matrix, GPT-2's causal masks."""
    head = ["lm_head.weight"] if config.tied else []
    if not isinstance(config, GPT2Config):
        return head
    return head + [f"h.{layer}.attn.{kind}" for layer in range(config.layers) for kind in ("bias", "masked_bias")]


def _check_shapes(place: Path, wanted: Mapping[str, Shape], found: Tensors) -> None:
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unknown {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {found[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        more = f", and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise TinyLMError(f"{place}: does not fit its config.json: {', '.join(sorted(problems)[:8])}{more}")


def _tensor_files(folder: Path) -> Iterator[Path]:
    """The one file, or the shards that an index names; a shard outside the folder is refused."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        if not (folder / WEIGHTS).exists():
            raise TinyLMError(f"{folder}: no {WEIGHTS} here. Train one: mlx-tinylm train --out {folder}")
        yield folder / WEIGHTS
        return
    raw = read_json(index)
    shards = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise TinyLMError(f"{index}: no weight_map of tensor names to file names")
    for name in sorted(set(shards.values())):
        if not _lies_in(folder, name):
            raise TinyLMError(f"{index}: names a file outside this folder: {brief(name)}")
        yield folder / name


def _lies_in(folder: Path, name: str) -> bool:
    try:
        return (
            len(name) < 256
            and Path(name).name == name
            and Path(os.path.realpath(folder / name)).parent == folder.resolve()
        )
    except ValueError:  # no name of a file: it holds a NUL or half of a surrogate pair
        return False


def _gpt2_stored(name: str, tensor: npt.NDArray[Any]) -> tuple[str, npt.NDArray[Any]]:
    """A tensor of another tool's GPT-2 under its stored name, and in the stored layout."""
    if name.startswith(MLX_LM_PREFIX):  # what mlx-lm writes is laid out as its Linear layers are
        name = name.removeprefix(MLX_LM_PREFIX)
        return name, transposed({name: tensor})[name]
    return name.removeprefix(TRANSFORMERS_PREFIX), tensor
