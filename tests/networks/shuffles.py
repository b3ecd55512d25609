"""Grouped convolutions whose groups are shuffled and joined, so that no two cut alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import Vision


def shuffled(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ThreeOfFive(Vision):
    """Shuffle 3 groups of 5: every position of a new group takes one of each old one."""

    groups, each = 3, 5

    def build(self) -> None:
        n = self.groups * self.each
        self.first, self.last = nn.Conv2d(3, n, 3), nn.Conv2d(n, 4, 1)
        self.a, self.b = (nn.Conv2d(n, n, 1, groups=self.groups) for _ in range(2))

    def forward(self, x):
        x = self.move(F.relu(self.a(self.first(x))))
        return self.last(self.b(x).relu())

    def move(self, x):
        return shuffled(x, self.groups)


class FourOfTen(ThreeOfFive):
    """Shuffle 4 groups of 10, which have a factor in common."""

    groups, each = 4, 10


class ThreeOfNine(ThreeOfFive):
    """Shuffle 3 groups of 9, which make products."""

    groups, each = 3, 9


class ThreeOfTwenty(ThreeOfFive):
    """Write the shuffle otherwise."""

    groups, each = 3, 20

    def move(self, x):
        x = x.unflatten(1, (3, 20)).permute(0, 2, 1, 3, 4)
        return x.contiguous().flatten(1, 2)


class ShuffleModule(ThreeOfFive):
    """Let a module shuffle."""

    def build(self) -> None:
        super().build()
        self.move = nn.ChannelShuffle(3)


class SeenBetween(ThreeOfFive):
    """Look at what the shuffle splits: only products can leave, and there are none."""

    stays = "a.weight 0, a.bias 0, b.weight 1, " + ThreeOfFive.stays

    def move(self, x):
        n, c, h, w = x.shape
        split = x.view(n, 3, 5, h, w)
        return split.transpose(1, 2).reshape(n, c, h, w) * split.flatten(1).amax(1).view(n, 1, 1, 1)


class JoinedBeforeGroups(Vision):
    """Join two widths, cut what comes out in groups: they end elsewhere than those before."""

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(24, 4, 1)
        self.a, self.b = nn.Conv2d(12, 18, 1, groups=3), nn.Conv2d(30, 24, 1, groups=3)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.relu(self.b(torch.cat([x, F.relu(self.a(x))], 1))))


class ShuffleUnit(nn.Module):
    def __init__(self, wide: int, out: int, groups: int, joined: bool) -> None:
        super().__init__()
        made, self.groups, self.joined = out - wide if joined else out, groups, joined
        self.a = nn.Conv2d(wide, out // 4, 1, groups=groups, bias=False)
        self.d = nn.Conv2d(out // 4, out // 4, 3, 1 + joined, 1, groups=out // 4)
        self.b, self.norm = nn.Conv2d(out // 4, made, 1, groups=groups), nn.BatchNorm2d(made)

    def forward(self, x):
        y = self.norm(self.b(self.d(shuffled(F.relu(self.a(x)), self.groups))))
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1) if self.joined else x + y)


class ShuffleNet(Vision):
    """Join what a unit makes to what it reads, add to that, and do both again."""

    groups, widths = 3, (12, 60, 120)

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, self.widths[0], 3), nn.Conv2d(self.widths[-1], 4, 1)
        pairs = zip(self.widths, self.widths[1:], strict=False)
        self.units = nn.Sequential(
            *(
                ShuffleUnit(wide if joined else out, out, self.groups, joined)
                for wide, out in pairs
                for joined in (True, False)
            )
        )

    def forward(self, x):
        return self.last(self.units(self.first(x)))


class ShuffleNetOfFour(ShuffleNet):
    groups, widths = 4, (16, 80, 160)
