"""Functions with a backward of their own: a trace has their forward only, so keep which they are.

While a model is captured, every result of a `torch.autograd.Function` that is not torch's own gets
a marker: an operator that hands the result on and names the call. Where gradients are taken, the
marker calls the Function itself, on what its arguments are now.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.autograd import Function
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from fxprune.capture.marker import LIBRARY
from fxprune.capture.snapshots import ATOMS

LIBRARY.define("differentiated(Tensor y, Tensor[] xs, SymInt[] sizes, str key) -> Tensor")
_tracing: list[set[str]] = []  # for each capture that runs: Functions that cannot be kept
_within: list[Any] = []  # the Functions whose forward runs, outermost first


@dataclass(frozen=True)
class Tensors:
    """Stand for the tensors among the arguments, in their order."""


@dataclass(frozen=True)
class Sizes:
    """Stand for the sizes among the arguments, in their order."""


@dataclass(frozen=True, eq=False)
class OwnCall:
    """Hold one result of a call of a Function: what it is given, and which result it is."""

    function: type[Function]
    leaves: tuple[Any, ...]
    spec: Any
    output: int

    @property
    def name(self) -> str:
        """Return the name of the Function."""
        return self.function.__name__

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnCall:
        return self

    def result(
        self, y: torch.Tensor, xs: Sequence[torch.Tensor], sizes: Sequence[int]
    ) -> torch.Tensor:
        """Return what the Function makes of its arguments where gradients are taken; else `y`.

        Raises RuntimeError where it makes something of another shape than `y`.
        """
        if not all(isinstance(one, torch.Tensor) for one in (y, *xs)):  # a tracer's
            return y
        derived = torch.is_grad_enabled() and any(one.requires_grad for one in xs)
        if not derived and not _tracing:
            return y
        found = self._called(xs, sizes)
        if found.shape != y.shape:
            raise RuntimeError(
                f"{self.name} makes {tuple(found.shape)} where {tuple(y.shape)} is needed"
            )
        return found

    def _called(self, xs: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
        tensors, numbers = iter(xs), iter(sizes)
        leaves = [
            next(tensors)
            if isinstance(leaf, Tensors)
            else next(numbers)
            if isinstance(leaf, Sizes)
            else leaf
            for leaf in self.leaves
        ]
        made = self.function.apply(*pytree.tree_unflatten(leaves, self.spec))
        listed = [made] if isinstance(made, torch.Tensor) else made
        found: torch.Tensor = listed[self.output]
        return found


CALLS: weakref.WeakValueDictionary[str, OwnCall] = weakref.WeakValueDictionary()
KEYS = map(str, itertools.count())


@torch.library.impl(LIBRARY, "differentiated", "CompositeImplicitAutograd")
def _(y: torch.Tensor, xs: list[torch.Tensor], sizes: list[int], key: str) -> torch.Tensor:
    """Hand `y` on; where gradients are taken, call what `key` names on `xs`."""
    call = CALLS.get(key)
    found = y if call is None or _tracing else call.result(y, xs, sizes)
    alias: torch.Tensor = torch.ops.aten.alias.default(found) if found is y else found
    return alias


differentiated = torch.ops.fxprune.differentiated.default


@contextmanager
def marked() -> Iterator[set[str]]:
    """Mark what Functions return; yield what cannot be kept: their names, and why."""
    patched: list[tuple[Any, Any]] = []
    lost: set[str] = set()
    kept: list[OwnCall] = []  # until the graph holds them
    patched.append((CheckpointFunction, vars(CheckpointFunction)["forward"]))
    CheckpointFunction.forward = staticmethod(_run)  # type: ignore[method-assign]
    for kind in _kinds(Function):
        patched.append((kind, vars(kind).get("forward")))
        kind.forward = staticmethod(_marking(kind, kind.forward, lost, kept))
    _tracing.append(lost)
    try:
        yield lost
    finally:
        _tracing.pop()
        for kind, forward in patched:
            if forward is None:
                del kind.forward
            else:
                kind.forward = forward


def _run(_: Any, function: Any, __: bool, *args: Any) -> Any:
    """Run what is to be recomputed in the backward: no part of it is without gradients."""
    return function(*args)


def unkept(lost: set[str]) -> list[str]:
    """Say which Functions lose their backward, and that gradients are others therefore."""
    return [
        f"{one}: its own backward is not kept, and training takes the gradients of its forward"
        for one in sorted(lost)
    ]


def within() -> bool:
    """Tell whether the forward of a Function runs, in which torch takes no gradients."""
    return bool(_within)


def attach_calls(graph: fx.Graph) -> None:
    """Give every marker what it names, which lives as long as the graph, in `meta["own_call"]`."""
    for node in graph.find_nodes(op="call_function", target=differentiated):
        node.meta["own_call"] = CALLS[str(node.args[3])]


def _kinds(above: Any) -> Iterator[Any]:
    """Yield the Functions there are that are not torch's own: its own are what they compute."""
    for kind in above.__subclasses__():
        if kind.__module__.partition(".")[0] != "torch":
            yield kind
        yield from _kinds(kind)


def _marking(kind: Any, forward: Any, lost: set[str], kept: list[OwnCall]) -> Any:
    """Return a Function's forward that marks its results, where it is not inside of another's."""
    apart = kind.setup_context is not Function.setup_context  # forward is given no context

    def marking(*given: Any) -> Any:
        args = given if apart else given[1:]
        versions = [one._version for one in args if isinstance(one, torch.Tensor)]
        _within.append(kind)
        try:
            made = forward(*given)
        finally:
            _within.pop()
        if _within:
            return made
        if versions != [one._version for one in args if isinstance(one, torch.Tensor)]:
            lost.add(f"{kind.__name__} writes to what it is given")
            return made
        listed = list(made) if isinstance(made, tuple) else [made]
        for place, one in enumerate(listed):
            if isinstance(one, torch.Tensor) and one.is_floating_point():
                listed[place] = _handed_on(kind, one, args, place, lost, kept)
        return tuple(listed) if isinstance(made, tuple) else listed[0]

    return marking


def _handed_on(
    kind: Any, y: torch.Tensor, args: Any, place: int, lost: set[str], kept: list[OwnCall]
) -> torch.Tensor:
    leaves, spec = pytree.tree_flatten(args)
    others = [one for one in leaves if not isinstance(one, (torch.Tensor, torch.SymInt))]
    strange = [one for one in others if type(one) not in ATOMS and not _plain(one)]
    if strange:
        lost.add(f"{kind.__name__} is given {type(strange[0]).__name__}")
        return y
    forms = tuple(
        Tensors()
        if isinstance(one, torch.Tensor)
        else Sizes()
        if isinstance(one, torch.SymInt)
        else one
        for one in leaves
    )
    key, call = next(KEYS), OwnCall(kind, forms, spec, place)
    CALLS[key] = call
    kept.append(call)
    tensors = [one for one in leaves if isinstance(one, torch.Tensor)]
    sizes = [one for one in leaves if isinstance(one, torch.SymInt)]
    marked_one: torch.Tensor = differentiated(y, tensors, sizes, key)
    return marked_one


def _plain(one: Any) -> bool:
    """Tell functions of a module, which hold nothing of a model's."""
    return callable(one) and not getattr(one, "__closure__", None) and hasattr(one, "__qualname__")
