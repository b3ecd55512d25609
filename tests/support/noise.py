"""Numbers drawn from generators of their own: the same whatever was imported or run before.

What a module draws from torch's own generator when it is imported depends on what was imported
before it, and so on which tests run together; `tests/conftest.py` refuses it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, generator=_generator(seed))


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """Return whole numbers below `high`."""
    return torch.randint(high, shape, generator=_generator(seed))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)  # not the stream that weights are made of
