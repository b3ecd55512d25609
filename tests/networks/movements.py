"""Small networks in which channels move: shuffled, split, joined, turned into pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import Sequence, Vision
from tests.support.noise import noise


class ChannelShuffle(Vision):
    def build(self) -> None:
        super().build()
        self.group = nn.Conv2d(8, 8, 3, padding=1, groups=2)

    def forward(self, x):
        x = F.relu(self.group(F.relu(self.first(x))))
        n, c, h, w = x.shape
        return self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class ChannelShuffleModule(Vision):
    def build(self) -> None:
        super().build()
        self.shuffle = nn.ChannelShuffle(4)

    def forward(self, x):
        return self.last(self.shuffle(F.relu(self.first(x))))


class PermuteFlatten(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 4)

    def forward(self, x):
        return self.last(F.relu(self.first(x)).permute(0, 2, 3, 1).flatten(1))


class C2f(Vision):
    stays = "first.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x):
        parts = list(F.silu(self.first(x)).chunk(2, 1))
        parts.append(parts[-1] + F.silu(self.a(parts[-1])))
        parts.append(F.silu(self.b(parts[-1])))
        return self.last(torch.cat(parts, 1))


class PixelShuffle(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.last(F.pixel_shuffle(F.relu(self.first(x)), 2))


class PixelUnshuffle(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        return self.last(F.pixel_unshuffle(F.relu(self.first(x)), 2))


class DepthToSpace(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        n, c, h, w = x.shape
        x = x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
        return self.last(x.reshape(n, c // 4, 2 * h, 2 * w))


class Glu(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(F.glu(self.first(x), 1))


class SwiGlu(Sequence):
    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 24, bias=False), nn.Linear(12, 4)

    def forward(self, x):
        gate, value = self.first(x).chunk(2, -1)
        return self.last(F.silu(gate) * value)


class SwiGluApart(Sequence):
    stays = "first.weight 1, up.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.up = nn.Linear(5, 12)

    def forward(self, x):
        return self.last(F.silu(self.first(x)) * self.up(x))


class CatTwice(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(torch.cat([x, x], 1))


class Gram(Vision):
    stays = "first.weight 1"

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(64, 4)
        self.stays = "first.weight 1, last.weight 0, last.bias 0"

    def forward(self, x):
        x = self.first(x).flatten(2)
        return self.last((x @ x.transpose(1, 2)).flatten(1))


class OptionA(Vision):
    def build(self) -> None:
        self.first, self.down = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.last(F.relu(self.down(x) + short))


class ReshapeAs(Vision):
    def build(self) -> None:
        super().build()
        self.mix = nn.Conv1d(8, 8, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(self.mix(x.flatten(2)).reshape_as(x) + x)


class OuterProduct(Sequence):
    inputs = (noise(2, 5),)
    stays = "first.weight 1, other.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.first, self.other, self.last = nn.Linear(5, 6), nn.Linear(5, 8), nn.Linear(48, 4)

    def forward(self, x):
        return self.last(torch.einsum("bi,bj->bij", self.first(x), self.other(x)).flatten(1))


class InPlaceSlices(Vision):
    def forward(self, x):
        x = self.first(x).clone()
        x[:, :4] *= 2
        x[:, 4:] = F.relu(x[:, 4:])
        return self.last(x)


class RolledChannels(Vision):
    def forward(self, x):
        return self.last(torch.roll(F.relu(self.first(x)), 3, 1))


class PermutedChannels(Vision):
    def build(self) -> None:
        super().build()
        self.register_buffer("order", torch.randperm(8))

    def forward(self, x):
        return self.last(F.relu(self.first(x))[:, self.order].flip(1))


class ListedChannels(Vision):
    stays = "first.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x):
        return self.last(F.relu(self.first(x))[:, [7, 2, 0, 3, 2]])


class Unfolded(Vision):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(72, 4)

    def forward(self, x):
        return self.last(F.unfold(F.relu(self.first(x)), 3).transpose(1, 2))


class Involution(Vision):
    """Weight each neighbourhood by a kernel made of the input, a kernel a group of channels."""

    def build(self) -> None:
        super().build()
        self.kernel = nn.Conv2d(8, 2 * 9, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        n, c, h, w = x.shape
        kernel = self.kernel(x).view(n, 2, 1, 9, h, w)
        patches = F.unfold(x, 3, padding=1).view(n, 2, c // 2, 9, h, w)
        return self.last((kernel * patches).sum(3).reshape(n, c, h, w))
