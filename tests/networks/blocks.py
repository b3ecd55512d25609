"""Small networks of the blocks on which pruners break: norms, gates, skips, odd weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.structures import AUDIO, Sequence, Vision
from tests.support.noise import noise


class Frozen(Vision):
    def build(self) -> None:
        super().build()
        self.requires_grad_(False)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


class Generator(Sequence):
    inputs = (noise(2, 5),)

    def build(self) -> None:
        self.first, self.up = nn.Linear(5, 8 * 4), nn.ConvTranspose2d(8, 6, 3, groups=2)
        self.norm, self.last = nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 1)

    stays = "first.weight 1, last.weight 1, last.bias 0"

    def forward(self, x):
        x = F.relu(self.first(x)).view(-1, 8, 2, 2)
        return self.last(F.relu(self.norm(self.up(x))))


class GroupNormAfterGroups(Vision):
    def build(self) -> None:
        super().build()
        self.group, self.norm = nn.Conv2d(8, 16, 3, groups=2), nn.GroupNorm(4, 16)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.group(F.relu(self.first(x))))))


class InstanceNorm(Vision):
    def build(self) -> None:
        super().build()
        self.norm = nn.InstanceNorm2d(8, affine=True)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x))))


class SpatialParameters(Vision):
    stays = Vision.stays + ", place 2, place 3"

    def build(self) -> None:
        super().build()
        self.place = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x):
        return self.last(F.relu(self.first(x)) * self.scale + self.place)


class SharedModule(Vision):
    def build(self) -> None:
        super().build()
        self.twice = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.relu(self.twice(F.relu(self.twice(x)))))


class SqueezeExcite(Vision):
    def build(self) -> None:
        super().build()
        self.down, self.up = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        gate = F.relu(self.down(x.mean((2, 3), keepdim=True)))
        return self.last(x * torch.sigmoid(self.up(gate)))


class Cbam(Vision):
    stays = "first.weight 1, last.weight 0, last.bias 0, gate.weight 1"
    approximate = True

    def build(self) -> None:
        super().build()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.first(x))
        pooled = torch.cat([x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], 1)
        return self.last(x * torch.sigmoid(self.gate(pooled)))


class UNet(Vision):
    def build(self) -> None:
        self.first, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 2, stride=2)
        self.up, self.last = nn.ConvTranspose2d(12, 6, 2, stride=2), nn.Conv2d(14, 4, 1)

    def forward(self, x):
        skip = F.relu(self.first(x))
        return self.last(torch.cat([self.up(F.relu(self.down(skip))), skip], 1))


class DilatedCausal(Vision):
    inputs = AUDIO

    def build(self) -> None:
        self.first, self.last = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 4, 1)
        self.gate, self.value = (nn.Conv1d(8, 8, 2, dilation=2) for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        past = F.pad(x, (2, 0))
        return self.last(x + torch.tanh(self.value(past)) * torch.sigmoid(self.gate(past)))


class Volume(Vision):
    inputs = (noise(2, 2, 4, 8, 8),)

    def build(self) -> None:
        self.first, self.norm = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.last = nn.Conv3d(8, 4, 1)

    def forward(self, x):
        return self.last(F.max_pool3d(F.relu(self.norm(self.first(x))), 2))


class Film(Vision):
    inputs = (noise(2, 3, 8, 8), noise(2, 5))
    stays = "first.weight 1, film.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.film = nn.Linear(5, 16)

    def forward(self, x, condition):
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        return self.last(F.relu(self.first(x) * (1 + scale) + shift))


class WeightNorm(Vision):
    def build(self) -> None:
        super().build()
        self.first = nn.utils.parametrizations.weight_norm(self.first)

    stays = "first.parametrizations.weight.original1 1, last.weight 0, last.bias 0"

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


class SpectralNorm(Vision):
    stays = "first.parametrizations.weight.original 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.first = nn.utils.parametrizations.spectral_norm(self.first.eval())

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


class CosineClassifier(Sequence):
    inputs = (noise(2, 5),)
    stays = "first.weight 1, centre 0"

    def build(self) -> None:
        self.first, self.centre = nn.Linear(5, 8), nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return F.normalize(self.first(x), dim=-1) @ F.normalize(self.centre, dim=-1).t()


class NestedOutputs(Vision):
    inputs = (noise(2, 3, 8, 8), noise(2, 5))
    stays = "first.weight 1, other.weight 1, last.weight 0, last.bias 0, head.weight 0, head.bias 0"

    def build(self) -> None:
        super().build()
        self.other, self.head = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x, y):
        y = F.relu(self.other(y))
        x = F.relu(self.first(x)) * y[:, :, None, None]
        return {"map": self.last(x), "more": (self.head(y), [self.head(x.mean((2, 3)))])}
