"""Put constants in place of random numbers, whose shapes are others in a smaller module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ConstantDraws(TorchDispatchMode):
    """Put constants in place of random numbers; `unknown` is an operator for which there is none.

    What is kept by a dropout is then all of it, in a module of any size.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unknown = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _drops_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            given, p = args[0], args[1]
            return given / (1.0 - p), torch.ones_like(given, dtype=torch.bool)
        made = func(*args, **kwargs)
        if name.startswith("bernoulli"):
            return made.fill_(1)
        if name.rstrip("_") in ("rand", "rand_like", "uniform"):
            return made.fill_(0.5)
        if name.rstrip("_") in ("randn", "randn_like", "normal", "normal_functional"):
            return made.fill_(0.25)
        self.unknown = self.unknown or str(func)
        return made


def _drops_nothing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether an operator that may drop numbers, such as attention, was asked to drop none."""
    for place, one in enumerate(func._schema.arguments):
        if one.name in ("dropout_p", "dropout"):
            asked = kwargs.get(one.name, args[place] if place < len(args) else one.default_value)
            return bool(asked == 0)
    return False
