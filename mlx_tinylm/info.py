"""What this installation is made of, and what a model folder holds."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.devices import Compute, prepare_if_possible
from mlx_tinylm.backend.products import products_here
from mlx_tinylm.model_folder.config import MAX_LAYERS, ModelConfig
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes
from mlx_tinylm.model_folder.trained_on import TextRecord, recorded_text
from mlx_tinylm.run_folder.runs import DamagedRun, Run, find_run

PACKAGES = ("mlx-tinylm", "mlx", "numpy", "tokenizers", "safetensors")
# A tensor belongs to the first of these that its name has, in the order in which a model computes with them.
PARTS = (
    *(
        ".wte.",
        ".wpe.",
        ".embed_tokens.",
        ".ln_1.",
        ".input_layernorm.",
        ".c_attn.",
        ".q_proj.",
        ".k_proj.",
        ".v_proj.",
    ),
    *(".q_norm.", ".k_norm.", ".attn.c_proj.", ".o_proj.", ".ln_2.", ".post_attention_layernorm.", ".c_fc."),
    *(".gate_proj.", ".up_proj.", ".mlp.c_proj.", ".down_proj.", ".ln_f.", ".norm.", ".lm_head."),
)
KINDS = ("weight", "scales", "biases", "bias")
LABELS = {  # of the keys that people read under another name
    "mlx_tinylm": "mlx-tinylm",
    "cpu_cores": "cpu cores",
    "backend": "back end",
    "streams": "streams in training",
    "blas_threads": "BLAS threads in each",
    "device_name": "device name",
    "tf32": "TF32 in float32 products",
    "products": "small products",
    "matrix_products": "matrix products",
}


@dataclass(frozen=True)
class SystemFacts:
    """Versions, and what computes when a model is trained."""

    python: str
    system: str
    versions: Mapping[str, str]  # by package
    cpu_cores: int | None
    compute: Compute | None  # None where MLX cannot be imported
    device_name: str | None = None
    memory: str | None = None  # that MLX's device can use
    macos: str | None = None  # its version
    architecture: str | None = None  # of MLX's device
    products: str | None = None  # whether MLX multiplies right

    def to_json(self) -> dict[str, Any]:
        """One flat object, without what is not known here."""
        found: dict[str, Any] = {"python": self.python, "system": self.system, "macos": self.macos}
        found |= {package.replace("-", "_"): version for package, version in self.versions.items()}
        found |= {"cpu_cores": self.cpu_cores, "backend": "mlx" if self.compute else "numpy"}
        if self.compute:
            found |= {
                "device": self.compute.device,
                "streams": self.compute.streams,
                "blas_threads": self.compute.blas_threads,
                "device_name": self.device_name,
                "architecture": self.architecture,
                "memory": self.memory,
                "tf32": ("allowed" if self.compute.may_use_tf32 else "off") if self.compute.device == "gpu" else None,
                "products": self.products,
                "matrix_products": self.compute.blas.source,
                "hint": self.compute.blas.hint,
            }
        return {key: value for key, value in found.items() if value is not None}

    def rows(self) -> list[tuple[str, Any]]:
        """The same as labels and values."""
        return [(LABELS.get(key, key), value) for key, value in self.to_json().items()]


def system_facts() -> SystemFacts:
    """What is found here; sets up computing as for training."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    compute = prepare_if_possible(spread=True)
    device: dict[str, Any] = {}
    if compute:
        import mlx.core as mx

        device = mx.device_info()
    size = device.get("memory_size") or device.get("total_memory")  # Metal's, CUDA's
    return SystemFacts(
        platform.python_version(),
        platform.platform(),
        versions,
        os.cpu_count(),
        compute,
        device.get("device_name"),
        f"{size / 2**30:.1f} GiB" if size else None,
        platform.mac_ver()[0] or None,
        device.get("architecture"),
        products_here() if compute else None,
    )


@dataclass(frozen=True)
class TensorFacts:
    """One tensor as it is stored."""

    shape: tuple[int, ...]
    type: str
    parameters: int  # numbers in it


@dataclass(frozen=True)
class TensorKind:
    """The tensors of one name in all layers, or one that stands outside them; `parameters` is the sum of theirs."""

    name: str
    shape: tuple[int, ...]
    type: str
    count: int
    parameters: int


@dataclass(frozen=True)
class ModelFacts:
    """What became of the run that made a model, its size and shape, and its tensors in the order of the model."""

    path: Path
    config: ModelConfig
    run: Run | DamagedRun | None  # None where the folder holds a model alone
    tokenizer: str  # what its ids are, in words
    text: TextRecord | None  # what it was trained on, as the run or else the model says
    weights_bytes: int
    folder_bytes: int  # with what resuming needs
    tensors: Mapping[str, TensorFacts]

    def to_json(self) -> dict[str, Any]:
        """All of it as a flat object, but for the run and the tensors, which are objects in it."""
        return {
            **self._shape(),
            "run": self.run.to_json() if self.run else None,
            "text": asdict(self.text) if self.text else None,
            "weights_bytes": self.weights_bytes,
            "folder_bytes": self.folder_bytes,
            "tensors": {name: asdict(tensor) | {"shape": list(tensor.shape)} for name, tensor in self.tensors.items()},
        }

    def rows(self) -> list[tuple[str, Any]]:
        """The summary as labels and values, the run first; the tensors are another table."""
        shape = self._shape()
        rows = [("model", shape.pop("model")), *self._run_rows()]
        size = f"{self.weights_bytes / 1e6:,.1f} MB"
        if self.folder_bytes - self.weights_bytes > 0.1 * self.weights_bytes:
            size += f" of weights, {self.folder_bytes / 1e6:,.1f} MB in all"
        return [*rows, ("size on disk", size), *shape.items()]

    def kinds(self) -> list[TensorKind]:
        """The tensors, those of one name in all layers together; `*` stands for the number of the layer."""
        found: dict[str, TensorKind] = {}
        for name, tensor in self.tensors.items():
            kind = re.sub(r"\.\d+\.", ".*.", name, count=1)
            had = found.get(kind)
            count, parameters = (had.count, had.parameters) if had else (0, 0)
            found[kind] = TensorKind(kind, tensor.shape, tensor.type, count + 1, parameters + tensor.parameters)
        return list(found.values())

    def _run_rows(self) -> list[tuple[str, Any]]:
        pairs = f"{self.text.pairs:,} pairs, " if self.text and self.text.pairs else ""
        text = [("text", f"{self.text.name}, {pairs}{self.text.characters:,} characters")] if self.text else []
        if self.run is None:
            return text
        if not self.run.whole:
            return [("run", f"damaged: {self.run.problem}"), *text]
        run, best = self.run, self.run.best
        loss = f"{best[1]:.4f} after step {best[0]:,}" if best else "not measured yet"
        bits = [("bits per byte", f"{run.bits_per_byte:.4f}")] if run.bits_per_byte is not None else []
        steps = f"{run.steps:,} of {run.asked:,}, {run.state}"
        kept = [f"{step:,}" for step in run.snapshots]
        history = [("history", f"{len(kept)} snapshots, steps {kept[0]} to {kept[-1]}")] if kept else []
        date = f"{run.date:%Y-%m-%d %H:%M}"
        return [("validation loss", loss), *bits, ("steps", steps), *history, *text, ("date", date)]

    def _shape(self) -> dict[str, Any]:
        config = self.config
        return {
            "model": str(self.path),
            "family": config.family,
            "layers": config.layers,
            "heads": config.heads,
            "width": config.width,
            "context": config.context,
            "vocabulary": config.vocab_size,
            "tokenizer": self.tokenizer,
            "parameters": count_parameters(config),
        }


def model_facts(path: Path) -> ModelFacts:
    """What the model folder `path` holds; raises TinyLMError where that is no whole model."""
    folder = open_folder(path)
    folder.tensors()  # whole, and of these shapes
    types, shapes = folder.types(), tensor_shapes(folder.config)
    facts = {
        name: TensorFacts(shapes[name], types[name], math.prod(shapes[name]))
        for name in sorted(shapes, key=_place_in_the_model)
    }
    run = find_run(path, folder.config)
    text = run.text if run and run.whole else recorded_text(path)
    return ModelFacts(path, folder.config, run, folder.tokenizer.kind, text, *_bytes(path), facts)


def _bytes(folder: Path) -> tuple[int, int]:
    """The size of the weights, and of all that lies in a folder."""
    sizes = {path: path.lstat().st_size for path in folder.rglob("*") if path.is_file()}
    weights = sum(size for path, size in sizes.items() if path.parent == folder and path.suffix == ".safetensors")
    return weights, sum(sizes.values())


def _place_in_the_model(name: str) -> tuple[int, int, int]:
    """The layer of a tensor, and its place there; what comes after the layers has a place after all of them."""
    part = next(place for place, part in enumerate(PARTS) if part in f".{name}.")
    kind = next(place for place, kind in enumerate(KINDS) if name.endswith(f".{kind}"))
    layer = re.search(r"\.(\d+)\.", name)
    after = MAX_LAYERS if part >= PARTS.index(".ln_f.") else -1
    return (int(layer[1]) if layer else after, part, kind)
