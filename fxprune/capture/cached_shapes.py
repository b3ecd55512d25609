"""Shapes that a model keeps of its last call, to make a table anew only where they change.

On the inputs that it saw last, such a forward goes another way than on all others, and would fix
every axis of the shape. So it is recorded as if it had seen another: what it then overwrites was
kept for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fxprune.capture.reached_code import library

MANY = 8  # attributes that are tried one by one, at most
Attribute = tuple[nn.Module, str]


def kept_shapes(model: nn.Module, sizes: Iterable[int]) -> list[list[Attribute]]:
    """Return attributes of modules that hold one of some sizes, in groups to try together."""
    wanted = set(sizes)
    shapes, numbers = list[Attribute](), list[Attribute]()
    for module in model.modules():
        if library(type(module).__module__):  # torch's own keep none
            continue
        for name, value in vars(module).items():
            if isinstance(value, (tuple, list)) and value and all(type(n) is int for n in value):
                kept = shapes if isinstance(value, torch.Size) else numbers
                kept += [(module, name)] if wanted & set(value) else []
            elif type(value) is int and value in wanted:
                numbers.append((module, name))
    return [*([shapes] if shapes else []), *([one] for one in numbers[:MANY])]


@contextmanager
def forgotten(
    attributes: Sequence[Attribute],
) -> Iterator[tuple[list[Attribute], Callable[[], None]]]:
    """Let some attributes hold no size meanwhile.

    Yields a list of those that were overwritten, which is filled in the end, and what forgets them
    anew.
    """
    was = [(module, name, vars(module)[name]) for module, name in attributes]
    put = [(module, name, _none(value)) for module, name, value in was]

    def forget() -> None:
        for module, name, value in put:
            vars(module)[name] = value

    overwritten: list[Attribute] = []
    forget()
    try:
        yield overwritten, forget
        overwritten += [(m, name) for m, name, value in put if vars(m).get(name) is not value]
    finally:
        for module, name, value in was:
            vars(module)[name] = value


def _none(value: Any) -> Any:
    """Return a shape of the same kind that no tensor has."""
    if isinstance(value, torch.Size):
        return torch.Size([-1] * len(value))
    return type(value)([-1] * len(value)) if isinstance(value, (tuple, list)) else -1
