"""Decoders of the shape of Llama, at any width and depth: what is measured is their shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Hold the sizes of a decoder."""

    width: int
    heads: int
    groups: int  # of heads that share keys and values
    hidden: int
    vocabulary: int


# as of Llama 3.2 1B, and of Llama 3.1 8B and 70B (their config.json)
SHAPES = {
    "1B": Shape(2048, 32, 8, 8192, 128256),
    "8B": Shape(4096, 32, 8, 14336, 128256),
    "70B": Shape(8192, 64, 8, 28672, 128256),
}


class Attention(nn.Module):
    """Attention with rotary positions and grouped keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.groups, self.size = shape.heads, shape.groups, shape.width // shape.heads
        self.q_proj = nn.Linear(shape.width, shape.heads * self.size, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.groups * self.size, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.groups * self.size, bias=False)
        self.o_proj = nn.Linear(shape.heads * self.size, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.groups, self.size).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.groups, self.size).transpose(1, 2)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, self.heads * self.size))


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Mlp(nn.Module):
    """A gated MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and MLP, each after a norm and added to what came in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = nn.RMSNorm(shape.width), Attention(shape)
        self.post_attention_layernorm, self.mlp = nn.RMSNorm(shape.width), Mlp(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Token numbers [batch, length] in, logits out."""

    def __init__(self, shape: Shape, layers: int) -> None:
        super().__init__()
        self.size = shape.width // shape.heads
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(layers))
        self.norm = nn.RMSNorm(shape.width)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        steps = torch.arange(0, self.size, 2, device=ids.device) / self.size
        angles = torch.arange(ids.shape[1], device=ids.device)[:, None] / 500000.0**steps
        cos, sin = (
            f(torch.cat([angles, angles], dim=-1)).to(x.dtype) for f in (torch.cos, torch.sin)
        )
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


def on_meta(shape: Shape, layers: int) -> Decoder:
    """Return a decoder without numbers, in bfloat16."""
    with torch.device("meta"):
        return Decoder(shape, layers).bfloat16().eval()
