"""How each kind of object is kept, so that it can be put back: what it held, and how to set it.

`snapshot` looks at one object. It returns what puts it back, and what it holds, to be looked at in
its turn.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import singledispatch
from operator import is_
from types import BuiltinMethodType, MemberDescriptorType, MethodType
from typing import Any, cast

import torch

Put = Callable[[], list[Any]]  # puts an object back; returns which parts of it had changed
Snapshot = tuple[Put | None, Iterable[tuple[Any, Any]]]
MISSING: Any = object()
ATOMS = frozenset([str, int, float, bool, complex, bytes, type(None), torch.dtype, torch.device])
NOTHING: Snapshot = (None, ())


@singledispatch
def snapshot(one: Any) -> Snapshot:
    """Return what puts an object back, and its parts with their keys: here, its attributes."""
    kind = cast(Any, type(one))
    slots = _slots(kind)
    attributes = kind.__dictoffset__ and object.__getattribute__(one, "__dict__")
    put = functools.partial(_put_slots, one, _read(one, slots), slots) if slots else None
    held = [(None, attributes)] if isinstance(attributes, dict) else []
    return put, [*held, *(_read(one, slots).items())]


@functools.cache
def _slots(kind: type) -> dict[str, Any]:
    """Return the slots that classes written in Python have in place of a dict."""
    return {
        name: found
        for above in kind.__mro__
        if "__slots__" in vars(above)
        for name, found in vars(above).items()
        if isinstance(found, MemberDescriptorType)
    }


def _read(one: Any, slots: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, slot in slots.items():
        try:
            found[name] = slot.__get__(one)
        except AttributeError:  # nothing was put there
            continue
    return found


def _differing(was: dict[Any, Any], now: dict[Any, Any]) -> list[Any]:
    """Return the keys of what is not what it was: a copy that holds the same things is."""
    keys = {**was, **now}
    return [key for key in keys if not _alike(was.get(key, MISSING), now.get(key, MISSING))]


def _alike(a: Any, b: Any) -> bool:
    """Tell whether two values are one, or equal numbers or texts, or containers of such."""
    if a is b:
        return True
    if type(a) is not type(b) or _size(a) != _size(b):
        return False
    if isinstance(a, (list, tuple)):
        return all(map(_alike, a, b))
    if isinstance(a, dict):
        return all(key in b and _alike(value, b[key]) for key, value in a.items())
    return type(a) in ATOMS and bool(a == b)


def _size(one: Any) -> int:
    return len(one) if isinstance(one, (list, tuple, dict)) else 0


def _put_slots(one: Any, was: dict[str, Any], slots: dict[str, Any]) -> list[Any]:
    now = _read(one, slots)
    changed = [n for n in slots if now.get(n, MISSING) is not was.get(n, MISSING)]
    for name in changed:
        if name in was:
            slots[name].__set__(one, was[name])
        else:
            slots[name].__delete__(one)
    return changed


# ---- containers ----------------------------------------------------------------------------------


@snapshot.register
def _(one: dict) -> Snapshot:  # type: ignore[type-arg]
    kind = OrderedDict if isinstance(one, OrderedDict) else dict
    was = dict(kind.items(one))
    inside = [(None, vars(one))] if hasattr(one, "__dict__") else []
    return functools.partial(_put_dict, one, was, kind), [*inside, *was.items()]


def _put_dict(one: dict[Any, Any], was: dict[Any, Any], kind: type[dict[Any, Any]]) -> list[Any]:
    same = len(one) == len(was) and all(map(is_, kind.values(one), was.values()))
    if same and all(map(is_, kind.keys(one), was)):
        return []
    changed = _differing(was, dict(kind.items(one)))
    kind.clear(one)
    for key, value in was.items():
        kind.__setitem__(one, key, value)
    return changed


@snapshot.register
def _(one: list) -> Snapshot:  # type: ignore[type-arg]
    was = list.copy(one)
    inside = [(None, vars(one))] if hasattr(one, "__dict__") else []
    return functools.partial(_put_list, one, was), [*inside, *enumerate(was)]


def _put_list(one: list[Any], was: list[Any]) -> list[Any]:
    if len(one) == len(was) and all(map(is_, list.__iter__(one), was)):
        return []
    list.__setitem__(one, slice(None), was)
    return [None]


@snapshot.register
def _(one: deque) -> Snapshot:  # type: ignore[type-arg]
    was = list(one)
    return functools.partial(_put_deque, one, was), enumerate(was)


def _put_deque(one: deque[Any], was: list[Any]) -> list[Any]:
    if len(one) == len(was) and all(map(is_, one, was)):
        return []
    one.clear()
    one.extend(was)
    return [None]


@snapshot.register
def _(one: set) -> Snapshot:  # type: ignore[type-arg]
    was = set.copy(one)
    return functools.partial(_put_set, one, was), enumerate(was)


def _put_set(one: set[Any], was: set[Any]) -> list[Any]:
    if len(one) == len(was) and all(map(was.__contains__, one)):
        return []
    set.clear(one)
    set.update(one, was)
    return [None]


@snapshot.register(tuple)
@snapshot.register(frozenset)
def _(one: Any) -> Snapshot:
    return None, enumerate(one)


@snapshot.register
def _(one: bytearray) -> Snapshot:
    was = bytes(one)
    return functools.partial(_put_bytes, one, was), ()


def _put_bytes(one: bytearray, was: bytes) -> list[Any]:
    if one == was:
        return []
    one[:] = was
    return [None]


# ---- what can be called --------------------------------------------------------------------------


@snapshot.register(staticmethod)
@snapshot.register(classmethod)
def _(one: Any) -> Snapshot:
    return None, [(None, one.__func__)]


@snapshot.register
def _(one: property) -> Snapshot:
    return None, [(None, one.fget), (None, one.fset)]


@snapshot.register(MethodType)
def _(one: Any) -> Snapshot:
    return None, [("__self__", one.__self__), ("__func__", one.__func__)]


@snapshot.register(BuiltinMethodType)
def _(one: Any) -> Snapshot:
    return None, [("__self__", one.__self__)]


@snapshot.register
def _(one: functools.partial) -> Snapshot:  # type: ignore[type-arg]
    return None, [("func", one.func), ("args", one.args), ("keywords", one.keywords)]


@snapshot.register
def _(one: functools._lru_cache_wrapper) -> Snapshot:  # type: ignore[type-arg]
    inside = [(None, vars(one))]
    return functools.partial(_put_cache, one, one.cache_info()), inside


def _put_cache(one: Any, was: Any) -> list[Any]:
    """Empty a cache to which something was added: which of it is old cannot be seen."""
    if one.cache_info().misses != was.misses:
        one.cache_clear()
    return []
