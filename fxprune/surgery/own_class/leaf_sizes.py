"""The sizes that a module was built with, told by building it: no table of classes says them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import nn

from fxprune.contexts import quiet
from fxprune.surgery.own_class.places import Place

MOST = 256  # ways to set the integers of one module that are tried
Shape = tuple[int, ...]


def sizes(
    module: nn.Module,
    held: Sequence[Place],
    changes: Mapping[int, set[int]],
    known: Mapping[Place, int],
) -> dict[Place, int]:
    """Return what the integers of a module must be that its own narrowed tensors have their shapes.

    `held` are its integers, `changes` say which old sizes became which, and `known` integers are
    told already. Where its class, built with them, has these shapes they are proven; where it
    cannot be built so, an integer of which only one new size is known is changed.
    """
    open_ = [p for p in held if p not in known and changes.get(p.value, set()) - {p.value}]
    if not open_:
        return {}
    options = [[*sorted(changes[p.value] - {p.value}), p.value] for p in open_]
    wanted = {name: tuple(tensor.shape) for name, tensor in _own(module)}
    fitting: list[tuple[int, ...]] = []
    for values in _limited(options):
        built = _built(module, {**known, **dict(zip(open_, values, strict=True))})
        if built is not None and all(built.get(n, shape) == shape for n, shape in wanted.items()):
            fitting.append(values)
    if fitting:
        old = [p.value for p in open_]
        fitting.sort(key=lambda values: sum(a != b for a, b in zip(values, old, strict=True)))
        return {p: v for p, v in zip(open_, fitting[0], strict=True) if v != p.value}
    return {p: next(iter(changes[p.value])) for p in open_ if len(changes[p.value]) == 1}


def _limited(options: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    for count, values in enumerate(product(*options)):
        if count == MOST:
            return
        yield values


def _own(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that a module itself holds."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _built(module: nn.Module, values: Mapping[Place, int]) -> dict[str, Shape] | None:
    """Return the shapes of a module of the same class built with some integers, if it can be."""
    with holding(values):
        given = constructor_arguments(module)
        if given is None:
            return None
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"), quiet(), quiet("stdout"):
                built = type(module)(**given)
        except Exception:  # sizes that do not go together raise what the class raises
            return None
    return {name: tuple(tensor.shape) for name, tensor in _own(built)}


def constructor_arguments(module: nn.Module) -> dict[str, Any] | None:
    """Return what a module was built with, as far as it holds it; nothing where it is not enough.

    Of an argument that is a parameter by now, such as a bias, it is told whether there is one.
    """
    given: dict[str, Any] = {}
    held = vars(module)
    for name, one in list(inspect.signature(type(module).__init__).parameters.items())[1:]:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if name in module._parameters or name in module._buffers:
            given[name] = getattr(module, name) is not None
        elif name in held:
            given[name] = held[name]
        elif one.default is one.empty:
            return None
    return given


@contextmanager
def holding(values: Mapping[Place, int]) -> Iterator[None]:
    """Let places hold other integers for a while."""
    before = [(vars(p.holder), p.attribute, vars(p.holder)[p.attribute]) for p in values]
    try:
        for place, value in values.items():
            place.put(value)
        yield
    finally:
        for held, name, value in reversed(before):
            held[name] = value
