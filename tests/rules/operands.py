"""Short names for the operands of samples."""

from __future__ import annotations

from typing import Any

import torch

from tests.rules.law import Held, Input, Sample

_random = torch.Generator().manual_seed(0)


def f(*shape: int) -> torch.Tensor:
    """Return a float operand: a parameter of the graph."""
    return torch.randn(shape, generator=_random)


def c(*shape: int) -> torch.Tensor:
    """Return a complex operand: a parameter of the graph."""
    return torch.complex(f(*shape), f(*shape))


def p(*shape: int) -> torch.Tensor:
    """Return a positive operand."""
    return torch.rand(shape, generator=_random) + 0.5


def b(*shape: int) -> torch.Tensor:
    """Return a mask, a buffer of the graph."""
    return torch.rand(shape, generator=_random) < 0.5


def i(high: int, *shape: int) -> torch.Tensor:
    """Return indices below `high`, a buffer of the graph."""
    return torch.randint(high, shape, generator=_random)


def x(*shape: int) -> Input:
    """Return an input of the graph: its shape never changes."""
    return Input(f(*shape))


def held(tensor: torch.Tensor) -> Held:
    """Return an operand with a point that is a buffer."""
    return Held(tensor)


def s(operator: Any, *args: Any, **kwargs: Any) -> Sample:
    """Return a sample call."""
    return Sample(operator, args, kwargs)


def r(operator: Any, *args: Any, **kwargs: Any) -> Sample:
    """Return a sample call whose values are random or undefined: shapes alone are compared."""
    return Sample(operator, args, kwargs, values=False)
