"""Functions with a backward of their own, and networks that call them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class Sign(Function):
    """Straight through, where the input is small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * (x.abs() <= 1)


class Reverse(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * g, None


class Same(Reverse):
    """Return the very tensor that is given; inherit the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x


class Inherited(Sign):
    """Have nothing of its own."""


class Rounded(Function):
    """A learned step size, one a channel, with a gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.bounds = low, high
        return (x / scale).round().clamp(low, high) * scale

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        low, high = ctx.bounds
        inside = ((x / scale) >= low) & ((x / scale) <= high)
        return g * inside, (g * (~inside)).sum(0), None, None


class Apart(Function):
    """Say its context apart, and return two results and a number."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
        return x.round(), x * y, 3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gs: Any) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return gs[0] + 2 * gs[1] * y, 3 * gs[1] * x


class Outer(Function):
    """Call another Function in its forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Sign.apply(x) * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 5 * g


class Sized(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: int) -> Tensor:
        ctx.rows = rows
        return x.floor()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g * ctx.rows, None


class Shared(Function):
    """Divide gradients by a width that it was told."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int) -> Tensor:
        ctx.width = width
        return x.floor().view(-1, width)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g / ctx.width, None


class InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 7 * g


class Given(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return 7 * g, None


class Net(nn.Module):
    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call
        self.a, self.b, self.o = nn.Linear(6, 16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.scale = nn.Parameter(torch.full((24,), 0.1))

    def forward(self, x: Tensor) -> Any:
        return self.o(self.call(self, self.b(self.a(x).relu())))


class Binary(nn.Module):
    """Read the signs of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        h = nn.functional.conv2d(x, Sign.apply(self.a.weight), self.a.bias)
        h = self.b(Reverse.apply(h, 0.5).relu())
        return self.o(h.mean((2, 3)))


def _apart(net: Any, x: Tensor) -> Tensor:
    first, second, _ = Apart.apply(x, net.scale)
    return first + second


KEPT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a sign": lambda net, x: Sign.apply(x),
    "a reversal": lambda net, x: Reverse.apply(x, 0.3),
    "the same": lambda net, x: Same.apply(x, 0.3),
    "inherited": lambda net, x: Inherited.apply(x),
    "learned steps": lambda net, x: Rounded.apply(x, net.scale, -8, 7),
    "several results": _apart,
    "nested": lambda net, x: Outer.apply(x),
    "a size": lambda net, x: Sized.apply(x, x.shape[0]),
    "twice": lambda net, x: Sign.apply(Reverse.apply(x, 0.5)) + Sign.apply(x * 2),
}
LOST: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "InPlace writes": lambda net, x: InPlace.apply(x * 1),
    "Given is given Linear": lambda net, x: Given.apply(x, net.a),
}
