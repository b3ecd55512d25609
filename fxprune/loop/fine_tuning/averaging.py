"""An average of the weights over the batches, which is often better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Average:
    """Keep the exponential average of a module's parameters and buffers over the batches.

    After t batches it counts as `min(decay, (1 + t) / (10 + t))`, so that what the module began
    with is soon forgotten. Integers, such as counts of batches, are taken as they are last.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module, self._decay, self._batches = module, decay, 0
        self._average = {name: one.detach().clone() for name, one in _tensors(module).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights as they are now."""
        self._batches += 1
        decay = min(self._decay, (1 + self._batches) / (10 + self._batches))
        for name, one in _tensors(self._module).items():
            if one.is_floating_point():
                self._average[name].lerp_(one, 1.0 - decay)
            else:
                self._average[name].copy_(one)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the average in the module for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the module's own tensors."""
        for name, one in _tensors(self._module).items():
            own = one.detach().clone()
            one.copy_(self._average[name])
            self._average[name] = own


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.state_dict(keep_vars=True))
