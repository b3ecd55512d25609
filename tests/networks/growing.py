"""Grow random networks of blocks on `n c h w`, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

Draw = Callable[[st.SearchStrategy[Any]], Any]
ACTIVATIONS = (F.relu, F.gelu, F.silu, torch.sigmoid, torch.tanh, F.hardswish)


class Block(nn.Module):
    """Take `c` channels; `width` says how many come out."""

    def __init__(self, draw: Draw, c: int) -> None:
        super().__init__()
        self.width = c
        self.build(draw, c)

    def conv(self, draw: Draw, c: int, out: int, groups: int = 1) -> nn.Conv2d:
        k = draw(st.sampled_from((1, 3)))
        bias = draw(st.booleans())
        return nn.Conv2d(c, out, k, padding=k // 2, groups=groups, bias=bias)


class Convolve(Block):
    def build(self, draw, c):
        groups = draw(st.sampled_from([g for g in (1, 2, 4, c) if c % g == 0]))
        self.width = groups * draw(st.integers(max(1, 4 // groups), max(1, 12 // groups)))
        self.inner = self.conv(draw, c, self.width, groups)

    def forward(self, x):
        return self.inner(x)


class Normalise(Block):
    def build(self, draw, c):
        kind = draw(st.sampled_from(("batch", "group", "instance", "plain")))
        groups = draw(st.sampled_from([g for g in (1, 2, 3, c) if c % g == 0]))
        self.inner = {
            "batch": nn.BatchNorm2d(c),
            "group": nn.GroupNorm(groups, c),
            "instance": nn.InstanceNorm2d(c, affine=True),
            "plain": nn.BatchNorm2d(c, affine=False),
        }[kind]

    def forward(self, x):
        return self.inner(x)


class Activate(Block):
    def build(self, draw, c):
        self.function = draw(st.sampled_from(ACTIVATIONS))

    def forward(self, x):
        return self.function(x)


class Residual(Block):
    def build(self, draw, c):
        self.first, self.second = Convolve(draw, c), Activate(draw, c)
        self.last = nn.Conv2d(self.first.width, c, 1)

    def forward(self, x):
        return x + self.last(self.second(self.first(x)))


class Concat(Block):
    def build(self, draw, c):
        self.a, self.b = Convolve(draw, c), Convolve(draw, c)
        self.again = draw(st.booleans())
        self.width = self.a.width + self.b.width + self.again * c

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x), *([x] if self.again else [])], 1)


class Split(Block):
    """Work on one part of the channels and put the parts together the other way round."""

    def build(self, draw, c):
        self.cut = draw(st.integers(1, c - 1))
        self.inner = nn.Conv2d(self.cut, self.cut, 1)

    def forward(self, x):
        a, b = x[:, : self.cut], x[:, self.cut :]
        return torch.cat([b, F.relu(self.inner(a))], 1)


class Shuffle(Block):
    def build(self, draw, c):
        self.groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, self.groups, -1, h, w).transpose(1, 2).reshape(n, c, h, w)


class Gate(Block):
    """Scale channels by what a second input says, or by what is in them."""

    def build(self, draw, c):
        self.outside = draw(st.booleans())
        self.inner = nn.Linear(5 if self.outside else c, c)

    def forward(self, x, y=None):
        source = y if self.outside else x.mean((2, 3))
        return x * torch.sigmoid(self.inner(source))[:, :, None, None]


class Pool(Block):
    def build(self, draw, c):
        self.kind = draw(st.sampled_from((F.max_pool2d, F.avg_pool2d)))

    def forward(self, x):
        return F.interpolate(self.kind(x, 2), size=x.shape[2:], mode="nearest")


class Pixels(Block):
    """Trade resolution for channels, and back."""

    def build(self, draw, c):
        self.inner = nn.Conv2d(4 * c, 4 * c, 1, groups=draw(st.sampled_from((1, 4))))

    def forward(self, x):
        return F.pixel_shuffle(self.inner(F.pixel_unshuffle(x, 2)), 2)


class Attend(Block):
    def build(self, draw, c):
        d = 4
        self.heads, self.kv = draw(st.sampled_from(((2, 2), (4, 2), (3, 1), (1, 1))))
        self.q = nn.Linear(c, self.heads * d)
        self.k, self.v = nn.Linear(c, self.kv * d), nn.Linear(c, self.kv * d)
        self.out = nn.Linear(self.heads * d, c)

    def forward(self, x):
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (
            f(tokens).view(n, h * w, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        gqa = self.kv != self.heads
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=gqa).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(n, c, h, w)


class Shared(Block):
    """Use one convolution twice."""

    def build(self, draw, c):
        self.inner = nn.Conv2d(c, c, 1, groups=draw(st.sampled_from((1, c))))

    def forward(self, x):
        return self.inner(F.relu(self.inner(x)))


class Gated(Block):
    """A gated feed-forward on channels last."""

    def build(self, draw, c):
        hidden = draw(st.integers(2, 6))
        self.up, self.down = nn.Linear(c, 2 * hidden), nn.Linear(hidden, c)

    def forward(self, x):
        gate, value = self.up(x.permute(0, 2, 3, 1)).chunk(2, -1)
        return self.down(F.silu(gate) * value).permute(0, 3, 1, 2)


BLOCKS = (
    *(Convolve, Normalise, Activate, Residual, Concat, Split, Shuffle, Gate),
    *(Pool, Pixels, Attend, Shared, Gated),
)


class Network(nn.Module):
    """Chain blocks; some of what is between them is an output too."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        width = draw(st.sampled_from((4, 6, 8, 12)))
        self.first = nn.Conv2d(3, width, 1)
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleDict()
        for k, kind in enumerate(draw(st.lists(st.sampled_from(BLOCKS), min_size=2, max_size=6))):
            self.blocks.append(kind(draw, width))
            width = self.blocks[-1].width
            if draw(st.integers(0, 4)) == 0:
                self.heads[str(k)] = nn.Conv2d(width, 2, 1)
        self.last = nn.Linear(width * 16, 3)

    def forward(self, x, y):
        x, more = self.first(x), {}
        for k, block in enumerate(self.blocks):
            x = block(x, y) if isinstance(block, Gate) else block(x)
            if str(k) in self.heads:
                more[str(k)] = self.heads[str(k)](x)
        return self.last(x.flatten(1)), more


@st.composite
def networks(draw: Draw) -> Network:
    """Draw a network, its weights from a drawn seed."""
    torch.manual_seed(draw(st.integers(0, 9)))
    return Network(draw)
