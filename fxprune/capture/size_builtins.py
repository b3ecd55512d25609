"""Let `len` and `int`, where the model's own code calls them, keep sizes symbolic.

Python makes numbers of what these return. While a forward is recorded, the modules whose functions
it reaches have their own, which are Python's for all but sizes.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Follow = Callable[[Any], Any]  # from a symbolic number to the size that it is, or None


@contextmanager
def following(spaces: Iterable[dict[str, Any]], follow: Follow) -> Iterator[None]:
    """Put them into the namespaces of some modules meanwhile."""
    own = {"len": length, "int": _whole(follow)}
    put = [(space, name) for space in spaces for name in own if name not in space]
    for space, name in put:
        space[name] = own[name]
    try:
        yield
    finally:
        for space, name in put:
            space.pop(name, None)


def length(of: Any) -> Any:
    """Return how long something is, a tensor's leading axis as a symbol.

    >>> length([1, 2])
    2
    """
    return of.shape[0] if isinstance(of, torch.Tensor) and of.ndim else len(of)


def _whole(follow: Follow) -> Any:
    """Return what stands for `int`."""

    class Kind(type):
        def __call__(cls, *given: Any, **named: Any) -> Any:
            if len(given) == 1 and isinstance(given[0], (torch.SymInt, torch.SymFloat)):
                found = follow(given[0])
                if found is not None:
                    return found
            return builtins.int(*given, **named)

        def __instancecheck__(cls, one: Any) -> bool:
            return isinstance(one, builtins.int)

        def __subclasscheck__(cls, one: Any) -> bool:
            return issubclass(one, builtins.int)

        def __eq__(cls, other: object) -> bool:
            return other is builtins.int or other is cls

        def __hash__(cls) -> builtins.int:
            return hash(builtins.int)

        def __getattr__(cls, name: str) -> Any:
            return getattr(builtins.int, name)

    return Kind("int", (), {})
