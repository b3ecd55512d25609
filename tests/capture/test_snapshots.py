"""Every kind of object is put back as it was: the very things, in their order."""

from __future__ import annotations

import functools
import itertools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fxprune.capture.untouched import Held


class Slotted:
    __slots__ = ("__hidden", "name", "new")

    def __init__(self) -> None:
        self.name, self.__hidden = "a", 1

    def change(self) -> None:
        self.name, self.new, self.__hidden = "b", 1, 2

    def shown(self) -> Any:
        return self.name, hasattr(self, "new"), self.__hidden


class Named(dict[str, int]):
    """A dict that answers for itself."""

    def __setitem__(self, key: str, value: int) -> None:
        raise TypeError("frozen")

    def items(self) -> Any:
        return ()


class Ordered(OrderedDict[str, int]):
    label = "old"


def shuffled(one: Any) -> None:
    one.move_to_end("a")
    one["c"] = 3
    one.label = "new"


KEPT: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a dict": (lambda: {"a": 1, "b": 2}, lambda d: d.update(b=d.pop("a")), lambda d: [*d.items()]),
    "a dict that is frozen": (
        lambda: Named(a=1),
        lambda d: dict.__setitem__(d, "b", 1),
        lambda d: [*dict.items(d)],
    ),
    "an order": (
        lambda: Ordered(a=1, b=2),
        shuffled,
        lambda d: ([*d.items()], [*reversed(d)], d.label),
    ),
    "a default": (lambda: defaultdict(list), lambda d: d["a"].append(1), dict),
    "a counter": (lambda: Counter("aab"), lambda c: c.update("b"), dict),
    "a list": (lambda: [3, 1, 2], list.sort, list.copy),
    "lists in a tuple": (lambda: ([1],), lambda t: t[0].append(2), repr),
    "a set": (lambda: {1, 2}, lambda s: s.symmetric_difference_update({2, 3}), set.copy),
    "a deque": (lambda: deque([1, 2], maxlen=2), lambda d: d.append(3), lambda d: ([*d], d.maxlen)),
    "bytes": (lambda: bytearray(b"ab"), lambda b: b.extend(b"c"), bytes),
    "slots": (Slotted, Slotted.change, Slotted.shown),
    "a namespace": (lambda: SimpleNamespace(a=1), lambda n: n.__dict__.update(a=2, b=3), repr),
    "an array": (lambda: np.arange(3.0), lambda a: a.sort(axis=0) or a.fill(7), np.ndarray.tolist),
    "a generator of NumPy": (
        lambda: np.random.default_rng(0),
        lambda g: g.random(),
        lambda g: repr(g.bit_generator.state),
    ),
    "a generator of old": (
        lambda: np.random.RandomState(0),
        lambda g: g.rand(),
        lambda g: repr(g.get_state()[1:3]),
    ),
    "a tensor's data": (lambda: torch.ones(3), lambda t: t.mul_(2), torch.Tensor.tolist),
    "a tensor's place": (
        lambda: torch.ones(3),
        lambda t: t.set_(torch.zeros(2)),
        torch.Tensor.tolist,
    ),
    "a tensor without numbers": (
        lambda: torch.full((2,), torch.nan),
        lambda t: t.fill_(1),
        lambda t: repr(t.tolist()),
    ),
    "a partial": (lambda: functools.partial(print, [1]), lambda p: p.args[0].append(2), repr),
    "a method": (lambda: [1].append, lambda m: m(2), lambda m: repr(m.__self__)),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_changed_is_put_back(name: str) -> None:
    make, change, look = KEPT[name]
    one = make()
    before = look(one)
    held = Held(SimpleNamespace(inside=one))
    change(one)
    assert look(one) != before
    told = held.put_back()
    assert look(one) == before
    assert bool(told) == ("generator" not in name)
    assert held.put_back() == []


def test_what_a_copy_was_put_for_is_put_back_untold() -> None:
    inside = SimpleNamespace(sizes=(1, [2, {"a": 3}]), name="x" * 9)
    sizes, held = inside.sizes, Held(inside)
    inside.sizes, inside.name = (1, [2, {"a": 3}]), "".join(itertools.repeat("x", 9))
    assert held.put_back() == []
    assert inside.sizes is sizes


def test_a_gradient_is_put_back() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    held = Held(parameter)
    parameter.sum().backward()
    parameter.requires_grad_(False)
    assert held.put_back()
    assert (parameter.grad, parameter.requires_grad) == (None, True)


def test_the_places_are_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.ReLU()))
    model[1].notes = {"seen": [1]}
    held = Held(model)
    model[1][0].inplace = True
    model[1].notes["seen"].append(2)
    del model[0].in_features
    assert sorted(held.put_back()) == ["0.in_features", "1.0.inplace", "1.notes.seen"]
    assert model[0].in_features == 2
