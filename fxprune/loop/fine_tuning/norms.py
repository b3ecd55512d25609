"""Statistics of batch norms, estimated anew after the model was pruned or trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fxprune.metrics import Calibration

Norm = nn.modules.batchnorm._NormBase


def norms_of(module: nn.Module) -> list[Norm]:
    """Return the norms of a module that keep running statistics."""
    every = [one for one in module.modules() if isinstance(one, Norm)]
    return [one for one in every if one.track_running_stats]


def recalibrate(
    module: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]
) -> None:
    """Re-estimate the statistics of all batch norms as averages over the batches.

    What is pruned has other statistics, and correct ones alone often recover most of the accuracy.
    `run(module, batch)` only has to run the module, as a loss does. The modes of all modules are
    put back.
    """
    norms = norms_of(module)
    modes = [(one, one.training) for one in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
        with torch.no_grad():
            for _, batch in Calibration(batches).each():
                run(module, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for one, mode in modes:
            one.training = mode
