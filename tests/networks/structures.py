"""What the small networks share: how they are called, and which axes stay."""

from __future__ import annotations

import torch
from torch import nn

from tests.support.noise import noise

IMAGE = (noise(2, 3, 8, 8),)
TOKENS = (noise(2, 6, 5),)
AUDIO = (noise(2, 2, 32),)


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
