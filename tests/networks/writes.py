"""Small networks that write in place: through stepped slices, views of views, and by scattering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import Sequence, Vision
from tests.support.noise import noise


class SteppedWrites(Vision):
    def forward(self, x):
        x = self.first(x).clone()
        x[:, 1::2].relu_()
        x[:, ::2] *= 2
        return self.last(x)


class SteppedFill(Vision):
    def forward(self, x):
        x = self.first(x).clone()
        x[:, 2::4] = 1.5
        return self.last(F.relu(x))


class SteppedCopy(Sequence):
    """Turn pairs of features, each half of a pair written by itself."""

    def forward(self, x):
        x = self.first(x)
        turned = torch.zeros_like(x)
        turned[..., ::2] = -x[..., 1::2]
        turned[..., 1::2].copy_(x[..., ::2])
        return self.last(x * 0.3 + turned)


class SteppedWithin(Vision):
    stays = (
        "first.weight 0, first.weight 1, first.bias 0, "
        + "last.weight 0, last.weight 1, last.bias 0"
    )
    approximate = True

    def forward(self, x):
        x = self.first(x).clone()
        x[:, 1:6:2].relu_()
        return self.last(x)


class ReadThenWritten(Vision):
    """Take every second channel before all of them change: what was taken changes, too."""

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.first(x).clone()
        half = x[:, ::2]
        x.relu_()
        return self.last(torch.cat([x, half], 1))


class WrittenThroughViews(Vision):
    def forward(self, x):
        x = self.first(x).clone()
        n, _, h, w = x.shape
        x[:, 2:6].view(n, 2, 2, h, w)[:, :, 1].unsqueeze(0).relu_()
        x.view(n, 2, 4, h, w)[:, 1].transpose(0, 1).mul_(2)
        return self.last(x)


class WrittenIndex(Vision):
    def forward(self, x):
        x = self.first(x).clone()
        x[:, -1].relu_()
        x[:, 3] = x[:, 0] + 1
        return self.last(x)


class Scattered(Vision):
    """Do the same by operators that return what they write."""

    def forward(self, x):
        x = self.first(x)
        x = torch.slice_scatter(x, F.relu(x[:, 1::2]), 1, 1, None, 2)
        x = torch.slice_scatter(x, 2 * x[:, 2:5], 1, 2, 5)
        x = torch.select_scatter(x, torch.tanh(x[:, -2]), 1, -2)
        return self.last(x)


class CopiedPieces(Vision):
    """Change pieces that are copies: what they are copies of does not change."""

    def forward(self, x):
        x = self.first(x)
        left, right = torch.split_with_sizes_copy(x, [3, 5], 1)
        left.mul_(2), right.relu_()
        return self.last(x + torch.cat([left, right], 1))


class MaskedTokens(Sequence):
    """Put features of another kind where a mask says, row by row."""

    inputs = (noise(2, 6, 5), noise(2, 4, 7, seed=1))
    stays = "first.weight 1, other.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.other = nn.Linear(7, 12)

    def forward(self, x, y):
        mask = (x[..., 0].argsort(-1) < 4)[..., None]
        x = self.first(x)
        x = x.masked_scatter(mask.expand_as(x), self.other(y))
        return self.last(x.masked_fill(mask, 0.5))


class MarkedTokens(MaskedTokens):
    def forward(self, x, y):
        mask = x[..., 0].argsort(-1) < 4
        x = self.first(x).clone()
        x[mask] = self.other(y).flatten(0, 1)
        return self.last(F.relu(torch.where(mask[..., None], x, 0.5)))


class AnyElements(MaskedTokens):
    """Let the mask pick elements, not rows: what it picks from stays."""

    stays = "first.weight 0, first.bias 0, last.weight 1, other.weight 0, other.bias 0, " + (
        MaskedTokens.stays
    )
    approximate = True

    def forward(self, x, y):
        x = self.first(x)
        return self.last(x.masked_scatter(x > 0, self.other(y)[:, [0, 1, 2, 3, 0, 1]]))
