"""Small transformers and recurrent networks, one a way to write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import Sequence
from tests.rules.samples.grouped import fallback as grouped_mm
from tests.support.noise import integers


class Separate(Sequence):
    """Project queries, keys and values apart; 3 heads of 4."""

    kv = 12
    stays = "q.weight 1, k.weight 1, v.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.q, self.k, self.v = nn.Linear(5, 12), nn.Linear(5, self.kv), nn.Linear(5, self.kv)
        self.last = nn.Linear(12, 4)

    def heads(self, x):
        return x.view(x.shape[0], x.shape[1], -1, 4).transpose(1, 2)

    def forward(self, x):
        q, k, v = (self.heads(f(x)) for f in (self.q, self.k, self.v))
        return self.last(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class ByHand(Separate):
    def attend(self, q, k, v):
        return (q @ k.transpose(-1, -2) / 4**0.5).softmax(-1) @ v


class ByEinsum(Separate):
    def attend(self, q, k, v):
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
        return torch.einsum("bhqk,bhkd->bhqd", scores, v)


class Grouped(Separate):
    """Share each key and value head among the queries of a group: 2 heads for 6 queries."""

    kv = 8

    def build(self) -> None:
        super().build()
        self.q, self.last = nn.Linear(5, 24), nn.Linear(24, 4)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


class GroupedInterleaved(Grouped):
    def attend(self, q, k, v):
        k, v = (t.repeat_interleave(3, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class GroupedSized(Grouped):
    """Say how many copies that makes; repeat by a tensor."""

    def attend(self, q, k, v):
        k = k.repeat_interleave(3, 1, output_size=6)
        v = v.repeat_interleave(torch.tensor([3, 3]), 1, output_size=6)
        return F.scaled_dot_product_attention(q, k, v)


class GroupedExpanded(Grouped):
    def attend(self, q, k, v):
        b, h, t, d = k.shape
        k, v = (x[:, :, None].expand(b, h, 3, t, d).reshape(b, h * 3, t, d) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class GroupedRepeated(Grouped):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k.repeat(1, 3, 1, 1), v.repeat(1, 3, 1, 1))


class MultiQuery(Grouped):
    kv = 4

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k.expand(-1, 6, -1, -1), v.expand(-1, 6, -1, -1))


class Fused(Sequence):
    """Project all at once: three, then heads, then head dims."""

    order = (2, 0, 3, 1, 4)
    sizes = (3, 3, 4)

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 36), nn.Linear(12, 4)

    def forward(self, x):
        b, t, _ = x.shape
        qkv = self.first(x).reshape(b, t, *self.sizes).permute(*self.order)
        q, k, v = qkv.unbind(0)
        return self.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1))


class FusedHeadsFirst(Fused):
    order = (3, 0, 2, 1, 4)


class FusedDimsFirst(Fused):
    sizes = (4, 3, 3)
    order = (4, 0, 3, 1, 2)


class FusedSplit(Fused):
    def forward(self, x):
        b, t, _ = x.shape
        parts = (one.view(b, t, 3, 4).transpose(1, 2) for one in self.first(x).split(12, -1))
        x = F.scaled_dot_product_attention(*parts)
        return self.last(x.transpose(1, 2).reshape(b, t, -1))


class Rotary(Separate):
    """Turn pairs of head dims by angles from a table made without gradients."""

    def build(self) -> None:
        super().build()
        self.register_buffer("frequency", torch.rand(2), persistent=False)

    def turned(self, x):
        with torch.no_grad():
            angle = torch.arange(x.shape[2])[:, None] * self.frequency[None]
            angle = torch.cat([angle, angle], -1)
            cos, sin = angle.cos(), angle.sin()
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)


class RelativeBias(Separate):
    """Add a learned bias a head, looked up by distance."""

    stays = Separate.stays + ", bias 0"

    def build(self) -> None:
        super().build()
        self.bias = nn.Parameter(torch.randn(11, 3))
        steps = torch.arange(6)
        self.register_buffer("distance", (steps[:, None] - steps[None] + 5).flatten())

    def attend(self, q, k, v):
        bias = self.bias[self.distance].view(6, 6, 3).permute(2, 0, 1)
        return ((q @ k.transpose(-1, -2)) / 2 + bias).softmax(-1) @ v


class LearnedQueries(Separate):
    stays = "k.weight 1, v.weight 1, last.weight 0, last.bias 0, query 0"

    def build(self) -> None:
        super().build()
        self.query = nn.Parameter(torch.randn(7, 9))
        self.q = nn.Linear(9, 12)

    def forward(self, x):
        q = self.heads(self.q(self.query).expand(x.shape[0], -1, -1))
        x = self.attend(q, self.heads(self.k(x)), self.heads(self.v(x)))
        return self.last(x.transpose(1, 2).flatten(2))


class Encoder(Sequence):
    """Use torch's own layer, whose fast path must not matter."""

    def build(self) -> None:
        super().build()
        self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, norm_first=True)

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


class Decoder(Sequence):
    def build(self) -> None:
        super().build()
        self.layer = nn.TransformerDecoderLayer(12, 3, 16, batch_first=True)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.layer(x, x.flip(1)))


class Tied(Sequence):
    """Use the embedding for the logits too."""

    inputs = (integers(9, 2, 6),)
    stays = "embed.weight 0"

    def build(self) -> None:
        self.embed, self.mix = nn.Embedding(9, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.mix(self.embed(x))) @ self.embed.weight.t()


class DenseExperts(Sequence):
    """Weight stacked experts by a router, densely."""

    stays = "first.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.router = nn.Linear(12, 4, bias=False)
        self.up = nn.Parameter(torch.randn(4, 12, 7))
        self.down = nn.Parameter(torch.randn(4, 7, 12))

    def forward(self, x):
        x = self.first(x)
        gate = torch.sigmoid(self.router(x))
        hidden = F.gelu(torch.einsum("btc,ech->bteh", x, self.up))
        out = torch.einsum("bteh,ehc->btec", hidden, self.down)
        return self.last((out * gate[..., None]).sum(2))


class RoutedExperts(Sequence):
    """Sort tokens by the expert that a router chooses, and multiply by the expert's matrix."""

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 4)
        self.router = nn.Linear(16, 3, bias=False)
        self.up = nn.Parameter(torch.randn(3, 24, 16) / 4)
        self.down = nn.Parameter(torch.randn(3, 16, 12) / 4)

    def forward(self, x):
        shape, x = x.shape, self.first(x).flatten(0, 1)
        share, chosen = torch.sigmoid(self.router(x)).topk(2)
        expert, order = chosen.flatten().sort()
        ends = self.ends(expert)
        gate, value = self.times(x[order // 2], self.up, ends).chunk(2, -1)
        out = self.times(F.silu(gate) * value, self.down, ends) * share.flatten()[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        x = x + out[back].view(*x.shape[:1], 2, -1).sum(1)
        return self.last(x.view(*shape[:2], -1))

    def ends(self, expert):
        return F.one_hot(expert, 3).sum(0).cumsum(0).to(torch.int32)

    def times(self, x, weight, ends):
        return grouped_mm(x, weight.transpose(-2, -1), ends)


class SelectedExperts(RoutedExperts):
    """Gather the matrix of every token's expert instead, which a search tells."""

    def times(self, x, weight, ends):
        expert = torch.searchsorted(ends, torch.arange(x.shape[0]), right=True)
        return torch.bmm(weight[expert], x.unsqueeze(-1)).squeeze(-1)


class Recurrent(Sequence):
    """Feed a recurrent layer of two directions and two depths."""

    kind: type[nn.Module] = nn.LSTM

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 6), nn.Linear(16, 4)
        self.core = self.kind(6, 8, 2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.last(self.core(self.first(x))[0])


class Gru(Recurrent):
    kind = nn.GRU


class Rnn(Recurrent):
    kind = nn.RNN


class Projected(Recurrent):
    stays = (
        Recurrent.stays
        + "".join(f", core.weight_{a}_l0 0, core.bias_{a}_l0 0" for a in ("ih", "hh"))
        + ", core.weight_hr_l0 1"
    )

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 6), nn.Linear(4, 4)
        self.core = nn.LSTM(6, 8, proj_size=4, batch_first=True)


class Cell(Sequence):
    def build(self) -> None:
        self.first, self.last = nn.LSTMCell(5, 8), nn.Linear(8, 4)
        self.stays = "first.weight_ih 1, last.weight 0, last.bias 0"

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.first(step, state)
        return self.last(state[0])
