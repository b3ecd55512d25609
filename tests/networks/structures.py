"""Small networks, one a structure on which pruners break; each says which axes stay."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

IMAGE = (torch.randn(2, 3, 8, 8),)
TOKENS = (torch.randn(2, 6, 5),)
AUDIO = (torch.randn(2, 2, 32),)


class Structure(nn.Module):
    """Name what a network is called with, and which parameter axes stay."""

    inputs: tuple[torch.Tensor, ...] = IMAGE
    stays = "first.weight 1, last.weight 0, last.bias 0"
    approximate = False  # whether nothing but approximate targets is in it

    def __init__(self) -> None:
        super().__init__()
        self.build()


class Vision(Structure):
    def build(self) -> None:
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)


class Sequence(Structure):
    inputs = TOKENS

    def build(self) -> None:
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 4)


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


class Frozen(Vision):
    def build(self) -> None:
        super().build()
        self.requires_grad_(False)

    def forward(self, x):
        return self.last(F.relu(self.first(x)))


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


class Generator(Sequence):
    inputs = (torch.randn(2, 5),)

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
    inputs = (torch.randn(2, 2, 4, 8, 8),)

    def build(self) -> None:
        self.first, self.norm = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.last = nn.Conv3d(8, 4, 1)

    def forward(self, x):
        return self.last(F.max_pool3d(F.relu(self.norm(self.first(x))), 2))


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
    inputs = (torch.randn(2, 5),)
    stays = "first.weight 1, other.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.first, self.other, self.last = nn.Linear(5, 6), nn.Linear(5, 8), nn.Linear(48, 4)

    def forward(self, x):
        return self.last(torch.einsum("bi,bj->bij", self.first(x), self.other(x)).flatten(1))


class Film(Vision):
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 5))
    stays = "first.weight 1, film.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        super().build()
        self.film = nn.Linear(5, 16)

    def forward(self, x, condition):
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        return self.last(F.relu(self.first(x) * (1 + scale) + shift))


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


class WeightNorm(Vision):
    approximate = True

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


class CosineClassifier(Sequence):
    inputs = (torch.randn(2, 5),)
    stays = "first.weight 1, centre 0"

    def build(self) -> None:
        self.first, self.centre = nn.Linear(5, 8), nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        return F.normalize(self.first(x), dim=-1) @ F.normalize(self.centre, dim=-1).t()


class NestedOutputs(Vision):
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 5))
    stays = "first.weight 1, other.weight 1, last.weight 0, last.bias 0, head.weight 0, head.bias 0"

    def build(self) -> None:
        super().build()
        self.other, self.head = nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x, y):
        y = F.relu(self.other(y))
        x = F.relu(self.first(x)) * y[:, :, None, None]
        return {"map": self.last(x), "more": (self.head(y), [self.head(x.mean((2, 3)))])}
