"""Classes that hold their sizes in ways of their own, as those of model libraries do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.noise import noise

IMAGE, TOKENS = noise(2, 3, 12, 12), torch.arange(10).view(2, 5)


class Config:
    """Hold sizes, as a configuration does that is written to a file."""

    def __init__(self, **entries: Any) -> None:
        vars(self).update(entries)


def config(**entries: Any) -> Config:
    sizes = {"vocabulary": 16, "hidden": 32, "inner": 48, "heads": 8, "kv_heads": 4, "head_dim": 4}
    return Config(**(sizes | {"layers": 2} | entries))


class Attention(nn.Module):
    """Attention of grouped queries; its scale is a number of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.head_dim = config, config.head_dim
        self.repeats = config.heads // config.kv_heads
        self.scale = config.head_dim**-0.5
        inner, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q = nn.Linear(config.hidden, inner, bias=False)
        self.k, self.v = (nn.Linear(config.hidden, narrow, bias=False) for _ in range(2))
        self.o = nn.Linear(inner, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            m(x).view(b, n, -1, self.head_dim).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        k, v = (repeated(one, self.repeats) for one in (k, v))
        weights = (q @ k.transpose(2, 3) * self.scale).softmax(-1)
        return self.o((weights @ v).transpose(1, 2).reshape(b, n, -1))


def repeated(x: Tensor, times: int) -> Tensor:
    b, heads, n, d = x.shape
    return x[:, :, None].expand(b, heads, times, n, d).reshape(b, heads * times, n, d)


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.norm1, self.norm2 = (nn.LayerNorm(config.hidden) for _ in range(2))
        self.gate, self.up = (nn.Linear(config.hidden, config.inner, bias=False) for _ in range(2))
        self.down = nn.Linear(config.inner, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """A decoder with a configuration, its output tied to its embedding, and a way to generate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocabulary, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden)
        self.head = nn.Linear(config.hidden, config.vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

    @torch.no_grad()
    def generate(self, tokens: Tensor, count: int) -> Tensor:
        for _ in range(count):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], 1)
        return tokens


class Transposed(nn.Module):
    """A linear layer with its weight the other way round, and names of its own for its sizes."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(noise(nx, nf))
        self.bias = nn.Parameter(noise(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(
            *x.shape[:-1], self.nf
        )


class Fused(nn.Module):
    """Attention of one projection that is split, with sizes that are equal at first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.split_size = 32, 4, 32
        self.head_dim = self.embed_dim // self.num_heads
        self.all_head_size = self.num_heads * self.head_dim
        self.c_attn, self.c_proj = Transposed(96, 32), Transposed(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            one.view(b, n, self.num_heads, self.head_dim).transpose(1, 2)
            for one in self.c_attn(x).split(self.split_size, dim=2)
        )
        y = (q @ k.transpose(2, 3) * 0.35).softmax(-1) @ v
        y = y.transpose(1, 2).reshape(b, n, self.all_head_size)
        return x.view(b, n, self.embed_dim) + self.c_proj(y)


class Convolutions(nn.Module):
    """Grouped, depthwise and transposed convolutions, and norms over groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 24, 1, groups=4)
        self.groups = nn.GroupNorm(4, 24)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.instances = nn.InstanceNorm2d(12, affine=True)
        self.act = nn.PReLU(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.norm(self.stem(x)).relu())
        x = self.up(self.groups(self.grouped(x)).relu())
        return self.head(self.act(self.instances(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """An embedding, an LSTM that is checked for its sizes, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(16, 12), nn.LSTM(12, 20, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.lstm(self.embed(tokens))[0]))


class Literal(nn.Module):
    """Attention whose forward says how many heads there are, and an MLP that says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = SimpleNamespace(width=32, heads=[4])
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(
            (q @ k.transpose(2, 3) * 0.35).softmax(-1).matmul(v).transpose(1, 2).flatten(2)
        )
        return x + self.down(self.up(x).relu())
