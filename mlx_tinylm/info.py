"""What this installation is made of, and what a model folder holds."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.devices import Compute, prepare_if_possible
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes

PACKAGES = ("mlx-tinylm", "mlx", "numpy", "tokenizers", "safetensors")
LABELS = {  # of the keys that people read under another name
    "mlx_tinylm": "mlx-tinylm",
    "cpu_cores": "cpu cores",
    "backend": "back end",
    "streams": "streams in training",
    "blas_threads": "BLAS threads in each",
    "device_name": "device name",
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

    def to_json(self) -> dict[str, Any]:
        """One flat object, without what is not known here."""
        found: dict[str, Any] = {"python": self.python, "system": self.system}
        found |= {package.replace("-", "_"): version for package, version in self.versions.items()}
        found |= {"cpu_cores": self.cpu_cores, "backend": "mlx" if self.compute else "numpy"}
        if self.compute:
            found |= {
                "device": self.compute.device,
                "streams": self.compute.streams,
                "blas_threads": self.compute.blas_threads,
                "device_name": self.device_name,
                "memory": self.memory,
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
    memory = f"{device['memory_size'] / 2**30:.1f} GiB" if "memory_size" in device else None
    return SystemFacts(
        platform.python_version(),
        platform.platform(),
        versions,
        os.cpu_count(),
        compute,
        device.get("device_name"),
        memory,
    )


@dataclass(frozen=True)
class TensorFacts:
    """One tensor as it is stored."""

    shape: tuple[int, ...]
    type: str
    parameters: int  # numbers in it


@dataclass(frozen=True)
class ModelFacts:
    """The shape of a model, and its tensors by name."""

    path: Path
    config: ModelConfig
    tensors: Mapping[str, TensorFacts]

    def to_json(self) -> dict[str, Any]:
        """The shape as a flat object, and in it one of the tensors."""
        config = self.config
        return {
            "model": str(self.path),
            "family": config.family,
            "layers": config.layers,
            "heads": config.heads,
            "width": config.width,
            "context": config.context,
            "vocabulary": config.vocab_size,
            "parameters": count_parameters(config),
            "tensors": {name: asdict(tensor) | {"shape": list(tensor.shape)} for name, tensor in self.tensors.items()},
        }

    def rows(self) -> list[tuple[str, Any]]:
        """The shape as labels and values; the tensors are another table."""
        return [(key, value) for key, value in self.to_json().items() if key != "tensors"]


def model_facts(path: Path) -> ModelFacts:
    """What the model folder `path` holds; raises TinyLMError where that is no whole model."""
    folder = open_folder(path)
    tensors = folder.tensors()
    shapes = tensor_shapes(folder.config)
    facts = {name: TensorFacts(shape, str(tensors[name].dtype), math.prod(shape)) for name, shape in shapes.items()}
    return ModelFacts(path, folder.config, facts)
