"""What this installation is made of, and what a model folder holds."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from pathlib import Path
from typing import Any

from mlx_tinylm.backend.choose import has_mlx
from mlx_tinylm.model_folder.folder import open_folder
from mlx_tinylm.model_folder.layout import count_parameters, tensor_shapes

PACKAGES = ("mlx-tinylm", "mlx", "numpy", "tokenizers", "safetensors")


def system_facts() -> dict[str, Any]:
    """Versions, device, memory and matrix library."""
    facts: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["cpu cores"] = os.cpu_count()
    if has_mlx():
        facts |= _mlx_facts()
    else:
        facts["back end"] = "numpy"
    return facts


def _mlx_facts() -> dict[str, Any]:
    from mlx_tinylm.backend.blas import use_fast_blas

    blas = use_fast_blas()
    import mlx.core as mx

    device = mx.default_device()
    facts: dict[str, Any] = {"back end": "mlx", "device": str(device)}
    described = mx.device_info()
    if "device_name" in described:
        facts["device name"] = described["device_name"]
    if "memory_size" in described:
        facts["memory"] = f"{described['memory_size'] / 2**30:.1f} GiB"
    facts["matrix products"] = blas.source
    if blas.hint:
        facts["hint"] = blas.hint
    return facts


def model_facts(path: Path) -> dict[str, Any]:
    """The shape of the model in a folder, and its parameters by tensor."""
    folder = open_folder(path)
    shapes = tensor_shapes(folder.config)
    tensors = folder.tensors()
    config = folder.config
    return {
        "model": str(path),
        "family": config.family,
        "layers": config.layers,
        "heads": config.heads,
        "width": config.width,
        "context": config.context,
        "vocabulary": config.vocab_size,
        "parameters": count_parameters(config),
        "tensors": {
            name: {"shape": list(shape), "type": str(tensors[name].dtype), "parameters": math.prod(shape)}
            for name, shape in shapes.items()
        },
    }
