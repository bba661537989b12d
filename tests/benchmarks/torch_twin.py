"""The models of mlx_tinylm, their optimizers and their sampling loop in plain PyTorch: what the benchmarks run against.

Eager, float32 (or bfloat16 autocast), fused attention. Parameters are the stored tensors under their stored names.

Shapes: B batch, T time, D width, H heads, K head size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlx_tinylm.run_folder.settings import TrainConfig

Parameters = dict[str, Tensor]


def gpt2(p: Parameters, ids: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """(B, T) -> logits (B, T, V)"""
    D = p["wte.weight"].shape[1]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), p[f"{name}.weight"], p[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]  # stored (in, out)

    x = F.dropout(p["wte.weight"][ids] + p["wpe.weight"][: ids.shape[1]], dropout)
    for n in range(layers(p, "h.")):
        q, k, v = (split(part, heads) for part in linear(norm(x, f"h.{n}.ln_1"), f"h.{n}.attn.c_attn").chunk(3, -1))
        y = joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + F.dropout(linear(y, f"h.{n}.attn.c_proj"), dropout)
        y = F.gelu(linear(norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp.c_fc"), approximate="tanh")
        x = x + F.dropout(linear(y, f"h.{n}.mlp.c_proj"), dropout)
    return norm(x, "ln_f") @ p["wte.weight"].T


def qwen3(p: Parameters, ids: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """(B, T) -> logits (B, T, V)"""
    rotation = rope(ids.shape[1], p["model.layers.0.self_attn.q_norm.weight"].shape[0])

    def norm(x: Tensor, name: str) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.rms_norm(x, weight.shape, weight, 1e-6)

    x = F.dropout(p["model.embed_tokens.weight"][ids], dropout)
    for n in range(layers(p, "model.layers.")):
        h = f"model.layers.{n}"
        y = norm(x, f"{h}.input_layernorm")
        q, k, v = (split(F.linear(y, p[f"{h}.self_attn.{name}_proj.weight"]), heads) for name in "qkv")
        q, k = rotated(norm(q, f"{h}.self_attn.q_norm"), rotation), rotated(norm(k, f"{h}.self_attn.k_norm"), rotation)
        y = joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        x = x + F.dropout(F.linear(y, p[f"{h}.self_attn.o_proj.weight"]), dropout)
        y = norm(x, f"{h}.post_attention_layernorm")
        y = F.silu(F.linear(y, p[f"{h}.mlp.gate_proj.weight"])) * F.linear(y, p[f"{h}.mlp.up_proj.weight"])
        x = x + F.dropout(F.linear(y, p[f"{h}.mlp.down_proj.weight"]), dropout)
    return F.linear(norm(x, "model.norm"), p["model.embed_tokens.weight"])


FAMILIES = {"gpt2": gpt2, "qwen3": qwen3}


def layers(p: Parameters, prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in p if name.startswith(prefix))


def split(x: Tensor, heads: int) -> Tensor:
    """(B, T, H K) -> (B, H, T, K)"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """(B, H, T, K) -> (B, T, H K)"""
    return x.transpose(1, 2).flatten(2)


def rope(T: int, K: int, theta: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (T, K) each."""
    angles = torch.arange(T)[:, None] * theta ** (-torch.arange(0, K, 2) / K)
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, T, K) -> the same, its halves rotated by position."""
    first, second = x.chunk(2, -1)
    return x * rotation[0] + torch.cat([-second, first], -1) * rotation[1]


class Muon:
    """Muon with decoupled decay as in `training/optimizer.py`; matrices of one shape are orthogonalised together."""

    def __init__(self, matrices: list[Tensor], rate: float, decay: float) -> None:
        self.rate, self.decay = rate, decay
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.groups = [(group, torch.zeros(len(group), *shape)) for shape, group in by_shape.items()]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        rate = self.rate * factor
        for group, momentum in self.groups:
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            momentum.mul_(0.95).add_(gradient, alpha=0.05)
            update = gradient * 0.05 + momentum * 0.95  # Nesterov's
            tall = update.shape[1] > update.shape[2]
            x = update.mT if tall else update
            x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).contiguous()
            for _ in range(5):  # Newton and Schulz's iteration
                square = x @ x.mT
                square = torch.baddbmm(square, square, square, beta=-4.775, alpha=2.0315)
                x = torch.baddbmm(x, square, x, beta=3.4445)
            scale = max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            for matrix, each in zip(group, x.mT if tall else x, strict=True):
                matrix.mul_(1 - rate * self.decay).sub_(each, alpha=rate * scale)


class Trainer:
    """Parameters, optimizers and the learning rates of a TrainConfig; the schedules are constant and linear."""

    def __init__(self, config: TrainConfig, tensors: dict[str, Any], autocast: bool) -> None:
        self.config, self.autocast, self.done = config, autocast, 0
        self.p = {name: torch.tensor(tensor).requires_grad_() for name, tensor in tensors.items()}
        embeddings = [t for n, t in self.p.items() if t.ndim == 2 and ("wte" in n or "wpe" in n or "embed" in n)]
        matrices = [t for t in self.p.values() if t.ndim == 2 and all(t is not e for e in embeddings)]
        vectors = [t for t in self.p.values() if t.ndim == 1]
        self.muon = None
        if config.optimizer == "muon":
            self.muon = Muon(matrices, config.muon_learning_rate, config.muon_weight_decay)
            matrices = []
        groups = [
            {"params": embeddings + matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        betas = (config.beta1, config.beta2)
        self.adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)

    def step(self, windows: Tensor) -> float:
        """(B, T + 1) -> the loss of the batch before the update."""
        config = self.config
        factor = 1 - self.done / config.steps if config.schedule == "linear" else 1.0
        for group in self.adam.param_groups:
            group["lr"] = config.learning_rate * factor
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = FAMILIES[config.family](self.p, windows[:, :-1], config.heads, config.dropout)
            loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        if self.muon:
            self.muon.step(factor)
        self.adam.step()
        for tensor in self.p.values():
            tensor.grad = None
        self.done += 1
        return loss.item()


@torch.no_grad()
def write_without_cache(p: Parameters, family: str, heads: int, ids: list[int], count: int, context: int) -> list[int]:
    """`ids` and `count` more, each drawn at temperature 0.8 after reading the whole context again."""
    for _ in range(count):
        logits = FAMILIES[family](p, torch.tensor([ids[-context:]]), heads)[0, -1]
        ids = [*ids, int(torch.multinomial(F.softmax(logits / 0.8, -1), 1))]
    return ids
