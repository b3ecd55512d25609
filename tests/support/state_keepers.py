"""Networks whose forward keeps something: in every place where a forward can keep anything."""

from __future__ import annotations

import collections
import functools
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GRIDS: dict[int, Tensor] = {}
COUNT = 0


@functools.lru_cache
def grid(width: int) -> Tensor:
    return torch.arange(float(width))


class Notes:
    """A plain object with slots, and one without in it."""

    __slots__ = ("inner", "late", "seen")

    def __init__(self) -> None:
        self.inner, self.seen = Inner(), collections.deque[Any](maxlen=4)


class Inner:
    shared: dict[str, Any] = {}  # noqa: RUF012  of the class, on purpose

    def __init__(self) -> None:
        self.value: Any = None
        self.by_name: dict[str, Any] = {"a": [1, {2}]}


class Keeper(nn.Module):
    """Two layers; `keep` is what a test adds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("calls", torch.zeros(()))
        self.table, self.shape = torch.zeros(0), None
        self.plain = torch.zeros(8)
        self.notes, self.generator = Notes(), torch.Generator().manual_seed(3)
        self.listed, self.named, self.members = [1, 2], {"b": 1, "a": 2}, {1}
        self.array = np.zeros(3)

    def forward(self, x: Tensor) -> Any:
        y = self.last(self.first(x).relu())
        self.keep(x, y)
        self.fails(x)
        return y

    def fails(self, x: Tensor) -> None:
        """Raise, where a test wants that."""

    def keep(self, x: Tensor, y: Tensor) -> None:
        raise NotImplementedError


class Attributes(Keeper):
    count = 0

    def keep(self, x: Tensor, y: Tensor) -> None:
        self.count += 1
        self.late = y
        self.shape = y.shape
        self.table = torch.arange(float(y.shape[1]))
        self.drop.p = 0.5
        self.drop.training = True
        self.first.weight.mine = y


class Containers(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        self.listed.append(y)
        self.named["a"] = y
        self.named["c"] = y
        self.named.pop("b")
        self.members.add(2)
        self.array += 1


class Objects(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        self.notes.late = y
        self.notes.seen.append(y)
        self.notes.inner.value = y
        self.notes.inner.by_name["a"][1].add(3)
        self.notes.inner.by_name["a"][0] = y


class OfClasses(Keeper):
    last_seen: Any = None

    def keep(self, x: Tensor, y: Tensor) -> None:
        type(self).last_seen = y
        Inner.shared["y"] = y
        OfClasses.first_seen = y  # type: ignore[attr-defined]


class Globals(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        global COUNT
        COUNT += 1
        GRIDS[8] = y
        y.add_(grid(8))


class Cells(Keeper):
    def __init__(self) -> None:
        super().__init__()
        count, kept = 0, [None]

        def inside(y: Any) -> None:
            nonlocal count
            count += 1
            kept[0] = y

        self.inside = functools.partial(inside)

    def keep(self, x: Tensor, y: Tensor, seen: Any = []) -> None:  # noqa: B006  on purpose
        self.inside(y)
        seen.append(y)


class Modules(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        if not self.first._forward_hooks:
            self.first.register_forward_hook(lambda *_: None)
        self.first.weight.requires_grad_(False)
        self.extra = nn.Linear(1, 1, device="meta")
        self.register_buffer("later", y, persistent=False)


class Random(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        random.random()
        np.random.rand()
        torch.rand(1)
        torch.rand(1, generator=self.generator)


class Writes(Keeper):
    def keep(self, x: Tensor, y: Tensor) -> None:
        self.calls.add_(1)
        self.plain.mul_(0.9).add_(1)
        self.plain.data = torch.full((8,), 7.0)
        x.mul_(2)


KEEPERS: list[type[Keeper]] = [
    *(Attributes, Containers, Objects, OfClasses, Globals, Cells, Modules, Random, Writes)
]


def described(model: Keeper, *given: Tensor) -> dict[str, Any]:
    """Return all that a forward of these networks can change, as values to be compared."""
    inside = getattr(model, "inside", None)
    cells = inside.func.__closure__ if inside else ()
    notes = model.notes
    return {
        "attributes": [(path, list(vars(one).items())) for path, one in model.named_modules()],
        "hooks": [len(one._forward_hooks) for one in model.modules()],
        "modes": [one.training for one in model.modules()],
        "tensors": [
            (name, one.tolist(), one.requires_grad, one.grad, list(vars(one)))
            for name, one in [*model.named_parameters(), *model.named_buffers()]
        ],
        "given": [one.tolist() for one in (*given, model.plain, model.table)],
        "containers": (list(model.listed), list(model.named.items()), set(model.members)),
        "array": model.array.tolist(),
        "notes": (hasattr(notes, "late"), list(notes.seen), list(vars(notes.inner).items())),
        "inner": repr(notes.inner.by_name),
        "classes": (OfClasses.last_seen, dict(Inner.shared), hasattr(OfClasses, "first_seen")),
        "globals": (COUNT, dict(GRIDS), type(grid(8))),
        "cells": [repr(cell.cell_contents) for cell in cells],
        "defaults": repr(Cells.keep.__defaults__),
        "random": (random.getstate(), np.random.get_state()[1].tolist()),
        "torch": (torch.get_rng_state().tolist(), model.generator.get_state().tolist()),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before if not same(before[key], after[key])]


def same(before: Any, after: Any) -> bool:
    """Compare descriptions: tensors and objects by identity."""
    if before is after:
        return True
    if type(before) is not type(after):
        return False
    if isinstance(before, dict):
        return list(before) == list(after) and same(list(before.values()), list(after.values()))
    if isinstance(before, (list, tuple)):
        return len(before) == len(after) and all(map(same, before, after))
    return not isinstance(before, Tensor) and bool(before == after)
