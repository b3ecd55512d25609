"""What a target is called: by what its axis is to the operators, not by how its weights lie."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune
from tests.support.noise import integers

TOKENS = integers(50, 2, 7)


class Stream(nn.Module):
    """Embed tokens, add what a block makes of them, normalise, classify."""

    width = 64

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(50, self.width), nn.LayerNorm(self.width)
        self.last = nn.Linear(self.width, 3)
        self.build()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.last(self.norm(x + self.block(x)))


class HeadsInWeights(Stream):
    """Keep every projection as a tensor of width, heads and head dims."""

    def build(self) -> None:
        shape = (self.width, 4, 16)
        self.q, self.k, self.v, self.o = (nn.Parameter(torch.randn(shape) / 8) for _ in range(4))

    def block(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bih,hnd->bind", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bind,bjnd->bnij", q, k).softmax(-1)
        return torch.einsum("bind,hnd->bih", torch.einsum("bnij,bjnd->bind", scores, v), self.o)


class HeadsFirst(HeadsInWeights):
    """Keep them as a tensor of heads, width and head dims."""

    def build(self) -> None:
        shape = (4, self.width, 16)
        self.q, self.k, self.v, self.o = (nn.Parameter(torch.randn(shape) / 8) for _ in range(4))

    def block(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bih,nhd->bnid", x, w) for w in (self.q, self.k, self.v))
        mixed = torch.softmax(q @ k.transpose(2, 3) / 4, -1) @ v
        return torch.einsum("bnid,nhd->bih", mixed, self.o)


class MergedHeads(HeadsInWeights):
    """Fold heads into the batch, and let `baddbmm` add what is known of positions."""

    def build(self) -> None:
        self.qkv, self.o = nn.Linear(self.width, 192), nn.Linear(64, self.width)

    def block(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            one.transpose(1, 2).reshape(n * 4, t, 16)
            for one in self.qkv(x).view(n, t, 4, 48).split(16, -1)
        )
        scores = torch.baddbmm(torch.ones(1, 1, t), q, k.transpose(1, 2)).view(n, 4, t, t)
        mixed = torch.bmm(scores.softmax(-1).view(n * 4, t, t), v)
        return self.o(mixed.view(n, 4, t, 16).transpose(1, 2).reshape(n, t, 64))


class Experts(Stream):
    def build(self) -> None:
        self.router = nn.Linear(self.width, 4)
        self.up = nn.Parameter(torch.randn(4, self.width, 24) / 8)
        self.down = nn.Parameter(torch.randn(4, 24, self.width) / 8)

    def block(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("btc,ech->bteh", x, self.up))
        out = torch.einsum("bteh,ehc->btec", hidden, self.down)
        return (out * self.router(x).softmax(-1)[..., None]).sum(2)


class OneExpertLayer(Experts):
    """Mix what the experts make by a product with the router's shares."""

    def build(self) -> None:
        self.router = nn.Linear(self.width, 4)
        self.up = nn.Parameter(torch.randn(4, self.width, self.width) / 8)

    def block(self, x: Tensor) -> Tensor:
        out = torch.einsum("btc,ecd->bted", x, self.up)
        return (self.router(x).softmax(-1)[..., None, :] @ out).squeeze(-2)


class ChosenMatrices(Experts):
    """Gather the matrices of the best expert of every token."""

    def block(self, x: Tensor) -> Tensor:
        best = self.router(x).argmax(-1).flatten()
        hidden = F.gelu(torch.bmm(x.flatten(0, 1)[:, None], self.up[best]))
        return torch.bmm(hidden, self.down[best]).view(x.shape)


class SoftSlots(Stream):
    """Fill the slots of experts with mixtures of all tokens."""

    def build(self) -> None:
        self.slots = nn.Parameter(torch.randn(self.width, 4, 2) / 8)
        self.up = nn.Parameter(torch.randn(4, self.width, 24) / 8)
        self.down = nn.Parameter(torch.randn(4, 24, self.width) / 8)

    def block(self, x: Tensor) -> Tensor:
        logits = torch.einsum("bmd,dnp->bmnp", x, self.slots)
        filled = torch.einsum("bmd,bmnp->bnpd", x, logits.softmax(1))
        filled = F.gelu(filled @ self.up) @ self.down
        return torch.einsum("bnpd,bmnp->bmd", filled, logits.flatten(2).softmax(-1).view_as(logits))


KINDS = {
    HeadsInWeights: {"channel": 64, "head": 4, "head_dim": 16 + 16},
    HeadsFirst: {"channel": 64, "head": 4, "head_dim": 16 + 16},
    MergedHeads: {"channel": 64, "head": 4, "head_dim": 16 + 16},
    Experts: {"channel": 64, "expert": 4, "hidden": 24},
    OneExpertLayer: {"channel": 64, "expert": 4},
    ChosenMatrices: {"channel": 64, "expert": 4, "hidden": 24},
    SoftSlots: {"channel": 64, "expert": 4, "hidden": 24 + 2},  # and the slots of each
}


@pytest.mark.parametrize("network", KINDS, ids=lambda network: network.__name__)
def test_kinds(network: type[Stream]) -> None:
    analysis = fxprune.analyze(network().eval(), (TOKENS,))
    found: Counter[str] = Counter()
    for target in analysis.targets:
        found[target.kind] += len(target)
    assert found == KINDS[network]
    (stream,) = [target for target in analysis.targets if target.kind == "channel"]
    assert ("embed.weight", 1) in stream.footprint
