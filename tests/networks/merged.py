"""Attention whose heads are folded into the batch: what the graph computes of both is scaled."""

from __future__ import annotations

import torch
from torch import nn

from tests.networks.attention import Separate


class Folded(Separate):
    """Fold 3 heads into the batch, head by head within an example."""

    def heads(self, x):
        return super().heads(x).flatten(0, 1)

    def forward(self, x):
        q, k, v = (self.heads(f(x)) for f in (self.q, self.k, self.v))
        mixed = self.attend(q, k, v)
        return self.last(mixed.view(x.shape[0], 3, *mixed.shape[1:]).transpose(1, 2).flatten(2))

    def attend(self, q, k, v):
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)


class HeadsOutermost(Separate):
    """Fold them in the other way: all examples of a head come one after another."""

    def forward(self, x):
        q, k, v = (
            self.heads(f(x)).transpose(0, 1).reshape(-1, x.shape[1], 4)
            for f in (self.q, self.k, self.v)
        )
        mixed = (q @ k.transpose(1, 2)).softmax(-1) @ v
        mixed = mixed.view(3, x.shape[0], *mixed.shape[1:])
        return self.last(mixed.permute(1, 2, 0, 3).flatten(2))


class Alibi(Folded):
    """Add a slope a head times the distance, of a sequence that the graph makes."""

    def attend(self, q, k, v):
        n, t = q.shape[:2]
        slopes = torch.pow(0.5, torch.arange(1, 4))
        steps = torch.cumsum(torch.ones(n // 3, t), -1) - 1
        alibi = (slopes[:, None] * steps[:, None]).reshape(n, 1, t)
        scores = alibi.baddbmm(q, k.transpose(1, 2), beta=1.0, alpha=0.5)
        scores = scores.view(n // 3, 3, t, t).softmax(-1)
        return torch.bmm(scores.view(n, t, t), v)


class AddedTo(Folded):
    """Add the products to a tensor that is made for all heads of all examples."""

    def attend(self, q, k, v):
        n, t = q.shape[:2]
        scores = torch.baddbmm(torch.zeros(n, t, t), q, k.transpose(1, 2), beta=0.0)
        return torch.bmm(scores.softmax(-1) + torch.full((n, t, t), 0.1), v)


class Disentangled(Folded):
    """Score positions by their distance: keys of positions, repeated and gathered for each head."""

    stays = Folded.stays + ", places 0"

    def build(self) -> None:
        super().build()
        self.places, self.rows = nn.Parameter(torch.randn(11, 5)), nn.Linear(5, 12)

    def attend(self, q, k, v):
        n, t = q.shape[:2]
        keys = super(Folded, self).heads(self.rows(self.places)[None]).repeat(n // 3, 1, 1, 1)
        apart = torch.arange(t)[:, None] - torch.arange(t)[None] + t - 1
        told = torch.bmm(q, keys.flatten(0, 1).transpose(1, 2))
        told = told.gather(-1, apart[None].expand(q.shape[0], -1, -1))
        return torch.bmm((q @ k.transpose(1, 2) + told).softmax(-1), v)


class Chosen(Folded):
    """Look keys and values up by positions, and repeat some."""

    def attend(self, q, k, v):
        order = torch.arange(q.shape[1]).flip(0) // 2
        k, v = k[:, order], v[:, order].repeat_interleave(1, 0)
        return super().attend(q, k, v)


class TwiceAsMany(Folded):
    """Share each folded head of keys and values between two of queries."""

    stays = Folded.stays

    def build(self) -> None:
        super().build()
        self.q, self.last = nn.Linear(5, 24), nn.Linear(24, 4)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (self.heads(f(x)) for f in (self.q, self.k, self.v))
        mixed = self.attend(q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0))
        return self.last(mixed.view(n, 6, t, 4).transpose(1, 2).flatten(2))
