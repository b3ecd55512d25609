"""Which parts of a forward's result belong to the graph: those that count, and can be in one.

What is left out pins nothing. A cache, or whatever else is neither tensors nor a container that
torch knows, is left out by itself; the model's own class carries it on.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError, InputError, unknown

Outputs = Sequence[str | int] | None  # names of fields, places in a tuple; None: all of them
PLAIN = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, torch.device)
PLAIN += (int, float, complex, str, bytes, type(None))  # type: ignore[assignment]


class Results:
    """Cut the results of a forward, and remember what was left out, or why it cannot be cut."""

    __slots__ = ("found", "refused")  # so that nobody takes it for something of the caller's

    def __init__(self) -> None:
        self.found: dict[str, str] = {}  # what was left out, and of what kind it is
        self.refused: FxpruneError | None = None

    def of(self, result: Any, outputs: Outputs) -> Any:
        """Return what counts of a result; raises InputError where it has no such part."""
        try:
            return counted(chosen(result, outputs), self.found)
        except FxpruneError as error:
            self.refused = error
            raise

    def notes(self) -> list[str]:
        """Say what was left out by itself."""
        listed = ", ".join(f"{name} ({kind})" for name, kind in self.found.items())
        text = f"left out of the result, as it is no tensor and no container of tensors: {listed}"
        return [text] if listed else []


@contextmanager
def counting(model: nn.Module, outputs: Outputs) -> Iterator[Results]:
    """Have a model return only what counts of its results, meanwhile.

    Its class gets a forward around its own, which cuts for this model alone, and for what a tracer
    puts in its place: a forward of the instance would hide from that by which name it reads others.
    """
    results, held = Results(), vars(model)
    plain = isinstance(inspect.getattr_static(type(model), "forward", None), FunctionType)
    apart = "forward" in held or not plain  # as an instance's own, and that of a script
    forward: Any = model.forward if apart else type(model).forward

    @functools.wraps(forward)
    def cut(*args: Any, **kwargs: Any) -> Any:
        result = forward(*args, **kwargs)
        mine = apart or vars(args[0]) is held
        return results.of(result, outputs) if mine else result

    try:
        with _patched(held, cut) if apart else _patched_class(type(model), cut):
            yield results
    except Exception as error:
        if results.refused is not None and error is not results.refused:
            raise results.refused from error
        raise


@contextmanager
def _patched(held: dict[str, Any], forward: Any) -> Iterator[None]:
    """Give an instance another forward, meanwhile, past what its class says of attributes."""
    before = held.get("forward")
    held["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            held.pop("forward", None)
        else:
            held["forward"] = before


@contextmanager
def _patched_class(kind: Any, forward: Any) -> Iterator[None]:
    """Give a class another forward, meanwhile."""
    before = vars(kind).get("forward")
    kind.forward = forward
    try:
        yield
    finally:
        if before is None:
            del kind.forward
        else:
            kind.forward = before


def checked(outputs: Any) -> tuple[str | int, ...] | None:
    """Return the outputs that a caller names; raises InputError for what names none."""
    if outputs is None:
        return None
    named = [outputs] if isinstance(outputs, (str, int)) else outputs
    right = isinstance(named, Sequence) and named and all(type(n) in (str, int) for n in named)
    if not right:
        raise InputError(
            f'outputs: a list of names or places is needed, as in ["logits"] or [0], not {outputs}'
        )
    return tuple(dict.fromkeys(named))


def parts_of(result: Any) -> dict[str | int, Any]:
    """Return the parts of a result by their names, or by their places."""
    if isinstance(result, Mapping):
        return dict(result)
    if is_dataclass(result) and not isinstance(result, type):
        return {one.name: getattr(result, one.name) for one in fields(result)}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    return dict(enumerate(result)) if isinstance(result, (tuple, list)) else {}


def chosen(result: Any, outputs: Outputs) -> Any:
    """Return a result with some of its parts, in the order that it has them."""
    if outputs is None:
        return result
    parts = parts_of(result)
    listed = list(parts)
    places = {n if n >= 0 else n + len(listed) for n in outputs if isinstance(n, int)}
    names = {n for n in outputs if isinstance(n, str)}
    for name in outputs:
        if name not in parts and not (isinstance(name, int) and -len(listed) <= name < len(listed)):
            if not listed:
                kind = type(result).__name__
                raise InputError(f"outputs: the model returns one {kind}; leave outputs out")
            raise InputError(f"outputs: {unknown('output', str(name), list(map(str, listed)))}")
    return _with(
        result,
        {k: v for at, (k, v) in enumerate(parts.items()) if k in names or at in places},
    )


def counted(result: Any, left: dict[str, str], path: str = "") -> Any:
    """Return a result without what no graph returns; of what that was is noted in `left`.

    What would be nothing then comes back as it is: whoever captures says what is wrong with it.
    """
    kept = dict[str | int, Any]()
    parts = parts_of(result)
    for name, value in parts.items():
        at = f"{path}.{name}" if path else str(name)
        inner = parts_of(value)
        if not inner and _opaque(value):
            left[at] = type(value).__name__
        else:
            part = counted(value, left, at) if inner else value
            if not inner or _counts(part):
                kept[name] = part
    if not kept:
        return result
    same = len(kept) == len(parts) and all(kept[name] is parts[name] for name in parts)
    return result if same and not _opaque(result) else _with(result, kept)


def _counts(value: Any) -> bool:
    """Tell whether a graph can return any of it."""
    parts = parts_of(value)
    return any(map(_counts, parts.values())) if parts else not _opaque(value)


def _opaque(value: Any) -> bool:
    """Tell what is neither a tensor or plain value nor a container that torch takes apart."""
    return not isinstance(value, (*PLAIN, tuple, list, dict)) and bool(pytree.tree_is_leaf(value))


def _with(result: Any, kept: Mapping[str | int, Any]) -> Any:
    """Return a container like `result` with some of its parts, or a dict where it needs all."""
    if isinstance(result, (tuple, list)) and not hasattr(result, "_fields"):
        return tuple(kept.values()) if isinstance(result, tuple) else list(kept.values())
    kind: Any = type(result)
    whole = hasattr(result, "_fields") and len(kept) == len(result)
    if whole or (isinstance(result, Mapping) and is_dataclass(result)):
        return kind(**{str(name): part for name, part in kept.items()})
    return OrderedDict(kept) if kind is OrderedDict else dict(kept)
