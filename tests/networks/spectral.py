"""Small networks of complex numbers: Fourier layers, and positions told by turns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.networks.attention import Separate
from tests.networks.structures import Sequence, Vision
from tests.support.noise import noise


class GlobalFilter(Vision):
    """Weigh the frequencies of each channel by a complex number kept as two."""

    stays = Vision.stays + ", filter 1, filter 2, filter 3"

    def build(self) -> None:
        super().build()
        self.filter = nn.Parameter(torch.randn(8, 8, 5, 2))

    def forward(self, x):
        spectrum = torch.fft.rfft2(self.first(x), norm="ortho")
        spectrum = spectrum * torch.view_as_complex(self.filter)
        return self.last(F.relu(torch.fft.irfft2(spectrum, s=(8, 8), norm="ortho")))


class SpectralConvolution(Vision):
    """Mix channels at the lowest frequencies by complex weights."""

    stays = Vision.stays + ", weight 2, weight 3"

    def build(self) -> None:
        super().build()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3, dtype=torch.cfloat))

    def forward(self, x):
        x = self.first(x)
        spectrum = torch.fft.rfft2(x)
        mixed = torch.zeros_like(spectrum)
        mixed[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", spectrum[:, :, :3, :3], self.weight)
        return self.last(F.relu(torch.fft.irfft2(mixed, s=x.shape[-2:]) + x))


class TokenMixing(Sequence):
    """Mix tokens by a transform over both axes: the features have places then."""

    stays = "first.weight 0, first.bias 0, last.weight 1, " + Sequence.stays
    approximate = True

    def forward(self, x):
        return self.last(torch.fft.fft2(self.first(x)).real)


class MixedTokensAlone(Sequence):
    def forward(self, x):
        return self.last(F.relu(torch.fft.fft(self.first(x), dim=1).real))


class Frames(Vision):
    """Read a signal in frames, channel by channel."""

    inputs = (noise(2, 2, 32),)
    stays = "first.weight 1, last.weight 0, last.bias 0"

    def build(self) -> None:
        self.first, self.last = nn.Conv1d(2, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.first(x)
        n, c, t = x.shape
        frames = torch.stft(x.reshape(n * c, t), 8, 4, center=False, return_complex=True)
        return self.last(frames.abs().view(n, c, *frames.shape[-2:]))


class ComplexRotary(Separate):
    """Turn pairs of head dims by complex numbers of a table."""

    def build(self) -> None:
        super().build()
        angle = torch.arange(6)[:, None] * torch.rand(2)[None]
        self.register_buffer("turns", torch.polar(torch.ones_like(angle), angle))

    def turned(self, x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns).flatten(3)

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)


class SteppedRotary(ComplexRotary):
    """Turn them by writing every second head dim in place."""

    def turned(self, x):
        cos, sin = self.turns.real, self.turns.imag
        turned = torch.empty_like(x)
        turned[..., ::2] = x[..., ::2] * cos - x[..., 1::2] * sin
        turned[..., 1::2] = x[..., ::2] * sin + x[..., 1::2] * cos
        return turned
