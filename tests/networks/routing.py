"""Mixtures of experts, one a way to choose experts and to multiply by their matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.attention import RoutedExperts
from tests.networks.structures import Sequence


class Mixture(Sequence):
    """Add up the two best of four experts, whose matrices every token gathers."""

    experts = 4

    def build(self) -> None:
        n = self.experts
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 4)
        self.router = nn.Linear(16, n)
        self.up = nn.Parameter(torch.randn(n, 16, 12) / 4)
        self.bias = nn.Parameter(torch.randn(n, 12) / 4)
        self.down = nn.Parameter(torch.randn(n, 12, 16) / 4)

    def forward(self, x):
        x = self.first(x)
        return self.last(x + self.mixed(x.flatten(0, 1)).view(x.shape))

    def mixed(self, x):
        share, chosen = self.router(x).softmax(-1).topk(2)
        share = share / share.sum(-1, keepdim=True)
        hidden = torch.einsum("ti,tkih->tkh", x, self.up[chosen])
        hidden = F.gelu(hidden + F.embedding(chosen, self.bias))
        return torch.einsum("tkh,tkho,tk->to", hidden, self.down[chosen], share)


class Scattered(Mixture):
    """Run all experts, and weigh those that are not chosen by zero."""

    def mixed(self, x):
        best, chosen = self.router(x).topk(2)
        logits = torch.zeros(x.shape[0], self.experts)
        return self.all(x, logits.scatter(1, chosen, best.softmax(-1)))

    def all(self, x, share):
        hidden = F.gelu(torch.einsum("ti,eih->eth", x, self.up) + self.bias[:, None])
        return torch.einsum("eth,eho,te->to", hidden, self.down, share)


class OneHot(Scattered):
    """Dispatch by one-hot codes of what is chosen."""

    def mixed(self, x):
        share, chosen = torch.sigmoid(self.router(x)).topk(2)
        return self.all(x, (F.one_hot(chosen, self.experts) * share[..., None]).sum(1))


class GroupLimited(Mixture):
    """Choose among the experts of the best of three groups only; a bias helps to choose."""

    experts = 6

    def build(self) -> None:
        super().build()
        self.correction = nn.Parameter(torch.randn(6) / 4)

    def mixed(self, x):
        scores = self.router(x).sigmoid()
        biased = scores + self.correction
        groups = biased.view(-1, 3, 2).topk(2, dim=-1)[0].sum(-1)
        best = groups.topk(2, dim=-1, sorted=False)[1]
        allowed = torch.zeros_like(groups)
        allowed.scatter_(1, best, 1)
        allowed = allowed.unsqueeze(-1).expand(-1, 3, 2).reshape(-1, 6)
        chosen = biased.masked_fill(~allowed.bool(), float("-inf")).topk(2, sorted=False)[1]
        share = scores.gather(1, chosen)
        share = share / (share.sum(-1, keepdim=True) + 1e-20)
        hidden = F.gelu(torch.einsum("ti,tkih->tkh", x, self.up[chosen]))
        return torch.einsum("tkh,tkho,tk->to", hidden, self.down[chosen], share)

    stays = "first.weight 1, last.weight 0, last.bias 0"


class Twice(Mixture):
    """Take the best expert, hide it, and take the best of the others."""

    def mixed(self, x):
        scores = self.router(x)
        share, first = scores.max(-1, keepdim=True)
        second = scores.scatter(-1, first, float("-inf")).argmax(-1, keepdim=True)
        chosen = torch.cat([first, second], -1)
        share = scores.softmax(-1).gather(-1, chosen)
        hidden = F.gelu(torch.einsum("ti,tkih->tkh", x, self.up[chosen]))
        return torch.einsum("tkh,tkho,tk->to", hidden, self.down[chosen], share)


class Looped(Mixture):
    """Ask of every expert in turn which tokens chose it; another expert is always there."""

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 4)
        self.router = nn.Linear(16, 3)
        self.each = nn.ModuleList(self.expert() for _ in range(3))
        self.shared = self.expert()

    def expert(self):
        return nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 16))

    def mixed(self, x):
        share, chosen = self.router(x).softmax(-1).topk(2)
        out = self.shared(x)
        for number, expert in enumerate(self.each):
            out = out + expert(x) * (share * (chosen == number)).sum(-1, keepdim=True)
        return out


class Counted(RoutedExperts):
    """Count by a histogram how many tokens chose an expert."""

    def ends(self, expert):
        counts = torch.histc(expert.float(), bins=3, min=0, max=2)
        return counts.cumsum(0, dtype=torch.int32)


class Codebook(Sequence):
    """Replace every vector by the nearest word of a codebook."""

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 4)
        self.words = nn.Parameter(torch.randn(8, 6))

    def forward(self, x):
        x = self.first(x)
        far = (x[:, :, None] - self.words).square().sum(-1)
        return self.last(x + F.embedding(far.argmin(-1), self.words))


class Weighed(Mixture):
    """Multiply by the matrices of chosen experts in a batch, and then by their shares."""

    def mixed(self, x):
        share, chosen = self.router(x).softmax(-1).topk(2)
        rows = x.repeat_interleave(2, 0).unsqueeze(1)
        hidden = F.gelu(torch.bmm(rows, self.up[chosen.flatten()]))
        out = torch.bmm(hidden, self.down[chosen.flatten()]).squeeze(1)
        return (out.view(-1, 2, 16) * share[..., None]).sum(1)


class Dense(Scattered):
    """Weigh the outputs of all experts after the last product."""

    def all(self, x, share):
        hidden = F.gelu(torch.einsum("ti,eih->eth", x, self.up) + self.bias[:, None])
        return (torch.bmm(hidden, self.down) * share.T[..., None]).sum(0)
