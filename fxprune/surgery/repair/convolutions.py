"""Convolutions of any rank, in groups and transposed, as patches times a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxprune.graphs import arguments
from fxprune.surgery.repair.contractions import Form, Found, made, reads

aten = torch.ops.aten
CONVOLUTIONS: dict[Any, bool | None] = {
    aten.conv1d.default: False,
    aten.conv2d.default: False,
    aten.conv3d.default: False,
    aten.conv1d.padding: False,
    aten.conv2d.padding: False,
    aten.conv3d.padding: False,
    aten.conv_transpose1d.default: True,
    aten.conv_transpose2d.input: True,
    aten.conv_transpose3d.input: True,
    aten.convolution.default: None,
}


@dataclass(frozen=True)
class Patches(Form):
    """Slide a kernel over the data; what it sees at a position is a row.

    A transposed convolution is a plain one of data that zeros were put between, its kernel turned.
    """

    groups: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # before and after each spatial axis, perhaps negative
    dilation: tuple[int, ...]
    between: tuple[int, ...] | None = None  # the stride of a transposed one

    @property
    def _rank(self) -> int:
        return len(self.kernel)

    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight as `[groups, channels and kernel, outputs]`."""
        spatial = tuple(range(-self._rank, 0))
        if self.between is None:
            parts = weight.reshape(self.groups, -1, weight[0].numel())
            return parts.transpose(1, 2)
        turned = weight.flip(spatial).reshape(self.groups, -1, *weight.shape[1:])
        return turned.movedim(2, -1).flatten(1, -2)

    def table(self, x: Tensor) -> Tensor:
        """Return a view `[n, channels, *positions, *kernel]` of all patches."""
        x = x if x.ndim == self._rank + 2 else x[None]
        if self.between is not None:
            x = _spread(x, self.between)
        x = F.pad(x, [one for pair in reversed(self.padding) for one in pair])
        for d in range(self._rank):
            reach = (self.kernel[d] - 1) * self.dilation[d] + 1
            x = x.unfold(2 + d, reach, self.stride[d])[..., :: self.dilation[d]]
        return x

    def features(self, table: Tensor, rows: Tensor) -> Tensor:
        """Return the patches at some positions as `[groups, rows, channels and kernel]`."""
        rank = self._rank
        at = torch.unravel_index(rows, (len(table), *table.shape[2 : 2 + rank]))
        patches = table.movedim(1, 1 + rank)[at]
        return patches.reshape(len(rows), self.groups, -1).transpose(0, 1)

    def results(self, y: Tensor) -> Tensor:
        """Return results as `[groups, positions, outputs]`."""
        y = (y if y.ndim == self._rank + 2 else y[None]).flatten(2).transpose(1, 2)
        return y.reshape(-1, self.groups, y.shape[2] // self.groups).transpose(0, 1)


def _spread(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return data with `stride − 1` zeros between neighbours."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sizes)
    places: Any = (..., *(slice(None, None, s) for s in stride))
    wide[places] = x
    return wide


@reads(*CONVOLUTIONS)
def convolution(module: fx.GraphModule, node: fx.Node) -> Found:
    """Read a convolution whose numbers are constants."""
    given = arguments(node)
    kernel = tuple(int(n) for n in given["weight"].meta["val"].shape[2:])
    transposed = CONVOLUTIONS[node.target]
    if transposed is None:
        transposed = bool(given["transposed"])
    form = _patches(given, kernel, transposed)
    return made(module, node, given["input"], given["weight"], form, given["bias"])


def _patches(given: dict[str, Any], kernel: tuple[int, ...], transposed: bool) -> Patches:
    rank, groups = len(kernel), int(given["groups"])
    stride, dilation = _each(given["stride"], rank), _each(given["dilation"], rank)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    if given["padding"] == "same":
        padding = tuple((n // 2, n - n // 2) for n in reach)
    elif given["padding"] == "valid":
        padding = ((0, 0),) * rank
    else:
        padding = tuple((p, p) for p in _each(given["padding"], rank))
    if not transposed:
        return Patches(groups, kernel, stride, padding, dilation)
    more = _each(given["output_padding"], rank)
    around = tuple((n - p, n - p + m) for n, (p, _), m in zip(reach, padding, more, strict=True))
    return Patches(groups, kernel, (1,) * rank, around, dilation, stride)


def _each(given: Any, rank: int) -> tuple[int, ...]:
    listed = [given] if isinstance(given, int) else [int(n) for n in given]
    return tuple(listed * rank if len(listed) == 1 else listed)
