"""Checkpoints of a small decoder, as they are published: shards, an index, a config."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

IDS = torch.arange(16).reshape(2, 8) % 24
CONFIG = {"layers": 2, "tied": True}
SPEC = {"target": ["hidden", "head"], "objective": {"params": 0.75}}


class Block(nn.Module):
    """A block of a decoder: grouped queries, and a gated MLP."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.norm, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, groups * self.size, bias=False)
        self.v = nn.Linear(width, groups * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        y = self.norm(x)
        q = self.q(y).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k(y).view(b, t, self.groups, self.size).transpose(1, 2)
        v = self.v(y).view(b, t, self.groups, self.size).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, self.heads * self.size))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """A small language model."""

    def __init__(self, layers: int = 2, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 16)
        self.layers = nn.ModuleList(Block(16, 4, 2, 24) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(16), nn.Linear(16, 24, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def build(config: Mapping[str, Any]) -> Decoder:
    """Build the model as its config says."""
    return Decoder(config["layers"], config["tied"])


def decoder(config: Mapping[str, Any] = CONFIG) -> Decoder:
    torch.manual_seed(0)
    return build(config).eval()


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a model, tied tensors once."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), (name, tensor.detach().contiguous()))
    return dict(found.values())


def written(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    shards: int = 3,
    config: Mapping[str, Any] = CONFIG,
) -> Path:
    """Write tensors as a checkpoint of some shards, or as one file."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder
    names, weights = list(tensors), dict[str, str]()
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        mine = names[k::shards]
        save_file({name: tensors[name] for name in mine}, folder / file, {"format": "pt"})
        weights |= dict.fromkeys(mine, file)
    index = {"metadata": {"total_size": 0, "by": "us"}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def sums(folder: Path) -> dict[str, str]:
    """Return a digest of every file in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
