"""The module that stands where a Function with a backward of its own was called."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from fxprune.capture.own_backward import OwnCall, differentiated
from fxprune.graphs import arguments
from fxprune.surgery.module_matching import Match, module_of
from fxprune.surgery.parameterised_leaves import Leaf


class OwnGradient(nn.Module):
    """Hand a result on, and where gradients are taken, call the Function that makes it.

    `lost` says why the Function is not called any more, where it is not.
    """

    def __init__(self, call: OwnCall) -> None:
        super().__init__()
        self.call, self.lost = call, ""

    def forward(
        self, y: torch.Tensor, xs: Sequence[torch.Tensor], sizes: Sequence[int]
    ) -> torch.Tensor:
        return y if self.lost else self.call.result(y, xs, sizes)

    def extra_repr(self) -> str:
        return self.call.name


def own_gradient(node: fx.Node) -> tuple[OwnGradient, str, Match] | None:
    """Return the module for a marker, the path that it is to have, and the match to place it by."""
    call = node.meta.get("own_call")
    if node.target is not differentiated or not isinstance(call, OwnCall):
        return None
    own, kind = module_of(node)
    row = Leaf(lambda _: None, ("y", "xs", "sizes"))
    match = Match(node, row, arguments(node), {}, frozenset(), own, kind)
    return OwnGradient(call), f"{own}.{call.name}".removeprefix("."), match


def unsaved(slim: nn.Module) -> list[str]:
    """Say which Functions a file does not hold: it has what they compute, and no code."""
    names = {one.call.name for one in slim.modules() if isinstance(one, OwnGradient)}
    return [
        f"{name}: a file does not hold its own backward, and training takes the gradients of its "
        "forward"
        for name in sorted(names)
    ]
