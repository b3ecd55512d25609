"""Integers that a model was built with: those of its arguments and of its configuration.

They are found by building the class anew, without numbers: of every integer it is seen which
shapes change with it. Where the class, built with other integers, has just the narrowed shapes and
gives the same numbers, its configuration can say the smaller model, and says it from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from fractions import Fraction
from itertools import combinations
from math import inf, log
from typing import Any

import torch
from torch import nn

from fxprune.contexts import quiet
from fxprune.graphs import tensors_of
from fxprune.surgery.own_class.leaf_sizes import constructor_arguments, holding
from fxprune.surgery.own_class.places import Place, holders, places

MOST = 400  # times that a model is built, without numbers
ODD = 10.0  # how far shapes of other lengths are apart
LIGHT = 0.3  # what integers of modules weigh, some of which nothing reads
CLOSE = 1e-9
NEAR = 4  # settings that are tried beside the best
Wrong = tuple[float, float]
Sizes = Mapping[int, set[int]]  # old integers, and what became of them
Setting = dict[Place, int]


def configured(model: nn.Module, changes: Sizes) -> list[Setting]:
    """Return integers of a model's arguments with which its class has the narrowed shapes.

    The likeliest come first: which of them computes the same is for a proof to say. None come where
    the class cannot be built of what the model holds, or no integers that `changes` allow will do.
    """
    search = _Search(model, changes)
    return search.found() if search.open else []


def rebuilt(model: nn.Module, setting: Mapping[Place, int]) -> nn.Module | None:
    """Return a model of the same class built with other integers, with the same tensors."""
    first = next(iter(tensors_of(model).values()))
    twin = _built(model, setting, first.device)
    if twin is None:
        return None
    twin.to(first.dtype if first.is_floating_point() else None)
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin.train(model.training)


class _Search:
    """Change one or two integers at a time, as long as the class fits better for it."""

    def __init__(self, model: nn.Module, changes: Sizes) -> None:
        self._model, self._left = model, MOST
        self._shapes = {name: tuple(t.shape) for name, t in tensors_of(model).items()}
        self._integers = {p.name: p.value for p in places(model) if p.module}
        single = {Fraction(new, old) for old, many in changes.items() for new in many if old != new}
        self._ratios = sorted(single | {a * b for a in single for b in single})
        given = constructor_arguments(model) or {}
        held = {id(one) for one in given.values()}
        self.open: list[tuple[Place, int]] = []  # what may be what now
        self._seen: list[tuple[Place, int]] = []  # of these what became so elsewhere, tried first
        for one in places(model):
            mine = one.holder is model and one.attribute in given
            if mine or (not one.module and _within(one.path, held, model)):
                self.open += [(one, new) for new in self._becomes(one.value)]
                self._seen += [(one, new) for new in sorted(changes.get(one.value, ()))]
        self.open += self._left_open(held)

    def _becomes(self, value: int) -> list[int]:
        """Return what an integer may be now: it, or factors of it, changed like some size."""
        return [int(value * r) for r in self._ratios if (value * r).denominator == 1]

    def _left_open(self, held: set[int]) -> Iterator[tuple[Place, int]]:
        """Yield what was left open in a configuration, with what modules hold by that name."""
        known: dict[str, set[int]] = {}
        for name, value in self._integers.items():
            known.setdefault(name.rpartition(".")[2], set()).add(value)
        for holder, path, module in holders(self._model):
            if not module and _within(path, held, self._model):
                for name, value in vars(holder).items():
                    for new in known.get(name, ()) if value is None else ():
                        yield Place(holder, path, name, (), False), new

    def found(self) -> list[Setting]:
        """Return the settings that give every shape: the best, and those a change away from it."""
        setting: Setting = {}
        wrong = self._wrong(setting)
        while self._left > 0:
            best = min(self._tried(setting, wrong), key=lambda one: sum(one[0]), default=None)
            if best is None or sum(best[0]) >= sum(wrong) - CLOSE:
                break
            wrong, setting = best
        if wrong[0] > CLOSE or not setting:
            return []
        near = [self._with(setting, one) for one in self.open if one[0] not in setting]
        near = sorted((one for one in near if one[0][0] < CLOSE), key=lambda one: one[0])
        return [setting, *(one for _, one in near[:NEAR])]

    def _tried(self, setting: Setting, wrong: Wrong) -> Iterator[tuple[Wrong, Setting]]:
        """Yield what is wrong after one more change, or where none helps, after two."""
        for some in (self._seen, self.open):
            singles = [self._with(setting, one) for one in some]
            yield from singles
            if any(sum(one) < sum(wrong) - CLOSE for one, _ in singles):
                return
        if wrong[0] > CLOSE:
            for a, b in combinations(self.open, 2):
                if a[0] is not b[0]:
                    yield self._with(setting, a, b)

    def _with(self, setting: Setting, *more: tuple[Place, int]) -> tuple[Wrong, Setting]:
        tried = {**setting, **dict(more)}
        return self._wrong(tried), tried

    def _wrong(self, setting: Setting) -> Wrong:
        """Return how far the shapes of tensors are off, and the integers of modules."""
        self._left -= 1
        built = _built(self._model, setting, torch.device("meta")) if self._left > 0 else None
        if built is None:
            return inf, inf
        shapes = {name: tuple(t.shape) for name, t in tensors_of(built).items()}
        apart = sum(
            _apart(shapes.get(name, ()), self._shapes.get(name, ()))
            for name in shapes.keys() | self._shapes.keys()
        )
        integers = {p.name: p.value for p in places(built) if p.module}
        others = sum(_apart((integers.get(n, 1),), (v,)) for n, v in self._integers.items())
        return apart, LIGHT * others


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the distance of two shapes: of the logarithms of their axes."""
    if len(one) != len(other):
        return ODD
    pairs = zip(one, other, strict=True)
    return sum(abs(log(max(a, 0.5) / max(b, 0.5))) for a, b in pairs)


def _within(path: str, held: set[int], model: nn.Module) -> bool:
    """Tell whether an object of a model is one of its arguments, or a part of one."""
    at: Any = model
    for name in path.split("."):
        at = getattr(at, name, None)
        if id(at) in held:
            return True
    return False


def _built(
    model: nn.Module, setting: Mapping[Place, int], device: torch.device | None
) -> nn.Module | None:
    """Return a model built anew with some integers, or nothing where its class refuses them."""
    with holding(setting):
        given = constructor_arguments(model)
        try:
            given = deepcopy(given)
        except Exception:  # what is not copied is not built of
            return None
    if given is None:
        return None
    kind: Any = type(model)
    try:
        with torch.random.fork_rng(devices=[]), quiet(), quiet("stdout"), device or nullcontext():
            built = kind(**given)
    except Exception:  # sizes that do not go together raise what the class raises
        return None
    return built if isinstance(built, nn.Module) else None
