"""Keep what a caller's objects are while their code runs, and put it back.

What a forward can change is what it can reach: the modules, what they hold, and what its own code
names: globals, attributes of classes, caches. All of it is looked at once, and nothing of tensors
is copied. What belongs to torch or to Python itself is left alone, and so is what is a thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import _lru_cache_wrapper
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from fxprune.capture.number_snapshots import data, shared_generators
from fxprune.capture.reached_code import ReachedCode, cells, library
from fxprune.capture.snapshots import ATOMS, Put, snapshot
from fxprune.graphs import tensors_of

# of the types that are no business of the caller's, those that hold what is
HOLDERS = frozenset(
    ["builtins", "collections", "types", "functools", "argparse", "random", "numpy"]
)
PLAIN = (dict, OrderedDict, list, set)
INSIDE = ("_modules", "_parameters", "_buffers")


class Place(NamedTuple):
    """Say where something was found: under a key of something else."""

    above: Place | None = None
    key: Any = None

    def __str__(self) -> str:
        keys: list[str] = []
        at: Place | None = self
        while at is not None:
            if at.key is not None and at.key not in INSIDE:
                keys.append(str(at.key))
            at = at.above
        return ".".join(reversed(keys))


class Held:
    """Hold what is reachable from some objects as it is now."""

    def __init__(self, *roots: Any) -> None:
        self._puts: list[tuple[Put, Place]] = []
        self._empty: list[tuple[Any, Place, Any]] = []  # most hooks of most modules
        self._code = ReachedCode()
        self._kinds: dict[type, bool] = {}
        self._torchs: set[Place] = set()  # modules of torch's own classes
        self._stack = [(one, Place()) for one in roots]
        self.tensors: list[tuple[torch.Tensor, Place]] = []
        with torch._C.DisableTorchFunction():  # a mode would be asked about every look at a tensor
            self._keep(roots)

    def _keep(self, roots: tuple[Any, ...]) -> None:
        """Look at everything that can be reached."""
        seen: dict[int, Any] = {}  # which keeps them alive, so that no other gets their id
        while self._stack:
            one, place = self._stack.pop()
            if id(one) not in seen:
                seen[id(one)] = one
                self._look(one, place)
        self._puts += [(put, Place(None, name)) for put, name in self._code.puts()]
        self._puts += self._data(roots)
        self._generators = list(shared_generators(one for one, _ in self.tensors))

    def modules(self) -> list[dict[str, Any]]:
        """Return the namespaces of the caller's modules whose functions can be reached."""
        return self._code.modules()

    def put_back(self) -> list[str]:
        """Put back what has changed, and return where that was."""
        with torch._C.DisableTorchFunction():
            return self._put_back()

    def _put_back(self) -> list[str]:
        changed = [Place(place, key) for put, place in self._puts for key in put()]
        for one, place, key in self._empty:
            if one:
                changed.append(Place(place, key))
                one.clear()
        for put in self._generators:
            put()
        return list(dict.fromkeys(str(one) for one in changed if not self._cached(one)))

    def _cached(self, place: Place) -> bool:
        """Tell what a module of torch's own keeps for itself: it follows from its tensors."""
        at: Place | None = place
        while at is not None:
            if at.above in self._torchs and str(at.key).startswith("_") and at.key not in INSIDE:
                return True
            at = at.above
        return False

    def _data(self, roots: tuple[Any, ...]) -> Iterator[tuple[Put, Place]]:
        """Keep the data of tensors that are neither a module's own nor given to it.

        In place of those tracers put others; of these they write the data themselves.
        """
        models = (one for one in roots if isinstance(one, torch.nn.Module))
        replaced = {id(one) for model in models for one in tensors_of(model).values()}
        replaced.update(map(id, pytree.tree_leaves(roots)))
        for one, place in self.tensors:
            if id(one) not in replaced and (put := data(one)) is not None:
                yield put, place

    def _look(self, one: Any, place: Place) -> None:
        """Keep one object as it is, and note what it holds."""
        if isinstance(one, FunctionType):
            self._puts += [(put, place) for put, _ in cells(one)]
            self._add(((None, part) for part in self._code.function(one)), place)
        elif isinstance(one, (ModuleType, type)):
            self._add(((None, part) for part in self._code.namespace(one)), Place())
        elif self._looked_into(one):
            if isinstance(one, torch.nn.Module) and library(type(one).__module__):
                self._torchs.add(place)
            put, parts = snapshot(one)
            if put is not None:
                self._puts.append((put, place))
            if isinstance(one, torch.Tensor):
                self.tensors.append((one, place))
            self._add(parts, place)

    def _looked_into(self, one: Any) -> bool:
        """Tell whether an object may hold something of the caller's; look at its class once."""
        kind = type(one)
        if kind not in self._kinds:
            self._kinds[kind] = _holds(kind)
            for above in kind.__mro__ if self._kinds[kind] else ():
                self._add([(None, above)], Place())
        return self._kinds[kind]

    def _add(self, parts: Iterable[tuple[Any, Any]], place: Place) -> None:
        for key, part in parts:
            kind = type(part)
            if kind in ATOMS:
                continue
            if kind in PLAIN and not part:
                self._empty.append((part, place, key))
            else:
                self._stack.append((part, place if key is None else Place(place, key)))


def _holds(kind: type) -> bool:
    if issubclass(kind, (torch.nn.Module, torch.Tensor, torch.Generator, _lru_cache_wrapper)):
        return True
    if issubclass(kind, threading.Thread):
        return False
    return not library(kind.__module__) or kind.__module__.partition(".")[0] in HOLDERS


@contextmanager
def untouched(*roots: Any) -> Iterator[Held]:
    """Put everything that is reachable from `roots` back in the end; yield what holds it."""
    held = Held(*roots)
    try:
        yield held
    finally:
        held.put_back()


def said(changed: list[str]) -> list[str]:
    """Say that a forward keeps something, so that its next call may be another."""
    some = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
    text = f"the forward changes {some}: what comes out does what the first call does, each time"
    return [text] if changed else []
