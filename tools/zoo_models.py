"""The torchvision zoo: how each model is built, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torchvision
from torch import nn

GROUPS = {
    "cls": torchvision.models,
    "seg": torchvision.models.segmentation,
    "video": torchvision.models.video,
    "flow": torchvision.models.optical_flow,
    "det": torchvision.models.detection,
}
SMALL = {  # pixels a side for the law; where a pattern is missing, 64
    "inception_v3": 96,
    "maxvit*": 224,  # its partitions are cut for 224
    "mvit*": 224,  # its positions too
    "s3d": 224,  # it ends in a fixed 2×7×7 pool
    "swin_v2*": 96,
    "raft*": 128,
}
FRAMES = {"mvit*": 16, "s3d": 16, "swin3d*": 4}  # of a clip; where a pattern is missing, 8


@dataclass(frozen=True)
class Case:
    """Name one model of the zoo and the group it belongs to."""

    name: str
    group: str

    def build(self, small: bool) -> nn.Module:
        """Return the model with fresh weights, in evaluation mode, nothing in it constant."""
        torch.manual_seed(0)
        options: dict[str, Any] = {"weights": None}
        if self.group in ("seg", "det"):
            options["weights_backbone"] = None
        if self.name.startswith("vit_") and small:
            options["image_size"] = self.pixels(small)
        model: nn.Module = GROUPS[self.group].__dict__[self.name](**options)
        return unsettled(model.eval())

    def pixels(self, small: bool) -> int:
        """Return the side of the input."""
        if self.name.startswith("vit_") and small:
            return 4 * int(self.name.rpartition("_")[2])
        if small or self.group in ("video", "flow"):
            return _matched(SMALL, self.name, 64)
        return 299 if self.name == "inception_v3" else 224

    def inputs(self, small: bool) -> tuple[Any, ...]:
        """Return example inputs, two in a batch."""
        torch.manual_seed(1)
        side = self.pixels(small)
        if self.group == "det":
            return ([torch.rand(3, 224, 224), torch.rand(3, 224, 224)],)
        if self.group == "video":
            return (torch.randn(2, 3, _matched(FRAMES, self.name, 8), side, side),)
        count = 2 if self.group == "flow" else 1
        return tuple(torch.randn(2, 3, side, side) for _ in range(count))


def cases(groups: Sequence[str] = tuple(GROUPS), only: str = "*") -> list[Case]:
    """Return the models of some groups whose names match a shell pattern."""
    return [
        Case(name, group)
        for group in groups
        for name in sorted(torchvision.models.list_models(module=GROUPS[group]))
        if fnmatchcase(name, only)
    ]


def unsettled(model: nn.Module) -> nn.Module:
    """Add noise to every tensor of floats that is constant: gains, biases, statistics, scales."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.numel() and tensor.min() == tensor.max():
                positive = bool((tensor > 0.5).all())
                noise = (
                    torch.rand_like(tensor) - 0.5 if positive else 0.1 * torch.randn_like(tensor)
                )
                tensor.add_(noise)
    return model


def _matched(table: Mapping[str, int], name: str, default: int) -> int:
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), default)
