"""Attention with heads, values and keys killed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.networks.attention import Fused, Separate
from tests.networks.dead import Case, zero
from tests.networks.structures import TOKENS


class MadeKeys(Separate):
    """Make keys and values along the axis of tokens."""

    def build(self) -> None:
        super().build()
        self.tokens = nn.Linear(6, 9)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        k, v = (self.tokens(one.transpose(-1, -2)).transpose(-1, -2) for one in (k, v))
        return super().attend(q, k, v)


class Merged(Fused):
    """Fold the heads into the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        qkv = self.first(x).view(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).flatten(1, 2)
        q, k, v = qkv.unbind(0)
        x = torch.bmm((q @ k.transpose(1, 2)).softmax(-1), v)
        return self.last(x.unflatten(0, (n, 3)).transpose(1, 2).flatten(2))


def zero_key(m: Any) -> None:
    zero(m.tokens.weight, 3)
    zero(m.tokens.bias, 3)  # softmax gives it a weight all the same


def heads_of(layers: tuple[str, ...]) -> Callable[[Any], None]:
    def kill(m: Any) -> None:
        for name in layers:
            layer = getattr(m, name)
            zero(layer.weight, *range(4, 8))
            zero(layer.bias, *range(4, 8))

    return kill


def merged_head(m: Any) -> None:
    zero(m.first.weight, *(12 * part + 4 + k for part in range(3) for k in range(4)))
    zero(m.first.bias, *(12 * part + 4 + k for part in range(3) for k in range(4)))


def fused_head(m: Any) -> None:
    zero(m.first.weight, *range(28, 32))  # the values of the second head
    m.first.bias[28:32] = torch.arange(4.0)


QKV = {f"{n}.{p}": (8, 5) if p == "weight" else (8,) for n in "qkv" for p in ("weight", "bias")}
QKV["last.weight"] = (4, 8)

HEADS = (
    Case("a key of zeros", MadeKeys, zero_key, {}, inputs=TOKENS),
    Case("separate heads", Separate, heads_of(("q", "k", "v")), QKV, inputs=TOKENS),
    Case("values only", Separate, heads_of(("v",)), QKV, inputs=TOKENS),
    Case("queries only", Separate, heads_of(("q",)), {}, "nothing was removed", TOKENS),
    Case(
        "fused heads",
        Fused,
        fused_head,
        {"first.weight": (24, 5), "first.bias": (24,), "last.weight": (4, 8)},
        "last.bias",
        TOKENS,
    ),
    Case(
        "heads in a batch of three",
        Merged,
        merged_head,
        {"first.weight": (24, 5), "first.bias": (24,), "last.weight": (4, 8)},
        inputs=(torch.cat([*TOKENS, TOKENS[0][:1]]),),
    ),
)
