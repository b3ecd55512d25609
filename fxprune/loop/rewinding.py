"""The weights that a model came with, of the size that is left of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from fxprune.cost.original_widths import Kept
from fxprune.graphs import tensors_of
from fxprune.loop.learned_metrics import narrowed
from fxprune.surgery import shrink
from fxprune.targets import Discovery, couple


def rewound(module: fx.GraphModule, kept: Kept) -> dict[str, torch.Tensor]:
    """Return the tensors of a captured model, cut to what is kept.

    Those that weights are computed of are such that what is kept of the weights is unchanged.
    """
    given = tensors_of(module)
    cut = {name: narrowed(tensor.detach(), kept.get(name, ())) for name, tensor in given.items()}
    coupling = couple(module)
    if not coupling.effective:
        return cut
    alive = np.ones(coupling.guards.size, dtype=bool)
    axes = [axis for axis in Discovery(module, coupling).axes if axis.name in kept]
    for axis in axes:
        alive[axis.guard] = False
    for axis in axes:
        alive[axis.guard[kept[axis.name][axis.dim].numpy()]] = True
    alive[0] = True  # what pads a guard
    return cut | tensors_of(shrink(module, coupling, alive))
