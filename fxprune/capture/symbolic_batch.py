"""Compute what an operator returns for a batch of any size from what it returns for two.

A fake tensor whose sizes are symbols makes Python derive every size of every result. Here each such
tensor has two *copies* on the meta device, one with the example's batch and one with a large prime
for a batch, and the operator's own kernel is called for both. A size of the result that agrees is
that number, and one that is `k` times the batch in both is `k` times its symbol. Anything else, an
operator that refuses one of the copies included, is left to the symbols: no size is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

PRIMES = (10_007, 10_037, 10_061, 10_079, 10_093, 10_103, 10_133, 10_151)
Pair = tuple[torch.Tensor, torch.Tensor]
Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides
Layouts = tuple[Layout, Layout]  # of both copies


class Unknown(Exception):
    """Say that two batches do not tell the result for every batch."""


@dataclass(frozen=True)
class Batch:
    """Hold a symbolic size and the two numbers that stand for it."""

    size: torch.SymInt
    small: int
    large: int


@dataclass(frozen=True)
class Known:
    """Hold a result: both copies of it, and a bare tensor whose sizes are symbols."""

    layouts: Layouts
    symbolic: torch.Tensor


class SymbolicBatch:
    """Run operators on copies of fake tensors, and make fake tensors of the results.

    What an operator returns follows from the layouts of its operands and its other arguments, so
    each such combination is computed once.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._batches: list[Batch] = []
        self._pairs: dict[int, Pair] = {}
        self._layouts: dict[int, Any] = {}
        self._hold: list[torch.Tensor] = []  # keeps the tensors whose id() is a key alive
        self._results: dict[Any, Any] = {}

    def add(self, size: torch.SymInt) -> None:
        """Give a symbol its two numbers."""
        if len(self._batches) < len(PRIMES):
            small: Any = size.node.hint
            self._batches.append(Batch(size, int(small), PRIMES[len(self._batches)]))

    def run(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the fake result of an operator; raises Unknown where the copies do not tell it."""
        operands: list[FakeTensor] = []
        key = (op, self._key(args, operands), self._key(kwargs, operands))
        devices = {fake.device for fake in operands}
        if len(devices) != 1 or kwargs.get("device") is not None:
            raise Unknown
        if key not in self._results:
            self._results[key] = self._computed(op, args, kwargs, operands)
        return self._made(self._results[key], operands, devices.pop())

    def _key(self, value: Any, operands: list[FakeTensor]) -> Any:
        """Return what of an argument decides the result, and note the tensors in it."""
        if isinstance(value, FakeTensor):
            operands.append(value)
            if id(value) not in self._layouts:
                self._derive(value)
            return self._layouts[id(value)]
        if isinstance(value, torch.SymInt):
            return value.node.expr
        if isinstance(value, (list, tuple)):
            return tuple([self._key(one, operands) for one in value])
        if isinstance(value, dict):
            return tuple([(name, self._key(one, operands)) for name, one in value.items()])
        if isinstance(value, (torch.Tensor, torch.SymFloat, torch.SymBool)):
            raise Unknown
        return type(value), value

    def _keep(self, fake: FakeTensor, layouts: Layouts) -> None:
        self._layouts[id(fake)] = (fake.dtype, *layouts)
        self._hold.append(fake)

    def _derive(self, fake: FakeTensor) -> None:
        """Learn the layouts of a fake tensor from its symbols."""
        sides = [
            (
                tuple([self._number(n, which) for n in fake.shape]),
                tuple([self._number(n, which) for n in fake.stride()]),
            )
            for which in (0, 1)
        ]
        self._keep(fake, (sides[0], sides[1]))

    def _pair(self, fake: FakeTensor) -> Pair:
        """Return the copies of a fake tensor: the same one twice where no size is symbolic."""
        if id(fake) not in self._pairs:
            dtype, small, large = self._layouts[id(fake)]
            with _bare():
                first = torch.empty_strided(*small, dtype=dtype, device="meta")
                if small != large:
                    second = torch.empty_strided(*large, dtype=dtype, device="meta")
            self._pairs[id(fake)] = first, first if small == large else second
        return self._pairs[id(fake)]

    def _computed(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[FakeTensor]
    ) -> Any:
        """Return what an operator returns for both copies."""
        pairs = [self._pair(fake) for fake in operands]
        small = self._told(args, 0), self._told(kwargs, 0)
        large = self._told(args, 1), self._told(kwargs, 1)
        with _bare():
            first = run(op, *small)
            fixed = all(a is b for a, b in pairs) and large == small
            second = first if fixed else run(op, *large)
            return self._known(first, second, pairs)

    def _told(self, value: Any, which: int) -> Any:
        """Return an argument for one of the copies."""
        if isinstance(value, FakeTensor):
            return self._pairs[id(value)][which]
        if isinstance(value, torch.SymInt):
            return self._number(value, which)
        if isinstance(value, (list, tuple)):
            return type(value)([self._told(one, which) for one in value])
        if isinstance(value, dict):
            return {name: self._told(one, which) for name, one in value.items()}
        return value

    def _number(self, size: int | torch.SymInt, which: int) -> int:
        """Return a size for one of the copies."""
        if isinstance(size, int):
            return size
        factor, rest = size.node.expr.as_coeff_Mul()
        for batch in self._batches:
            if rest == batch.size.node.expr and factor.is_Integer:
                return int(factor) * (batch.large if which else batch.small)
        if size.node.expr.is_Integer:
            return int(size.node.expr)
        raise Unknown

    def _known(self, first: Any, second: Any, pairs: list[Pair]) -> Any:
        """Compare two results: the place of an operand that is returned itself, or what is new."""
        if isinstance(first, (list, tuple)):
            if len(first) != len(second):
                raise Unknown
            parts = zip(first, second, strict=True)
            return type(first)([self._known(a, b, pairs) for a, b in parts])
        if type(first) is not torch.Tensor or first.ndim != second.ndim:
            raise Unknown
        for place, (a, b) in enumerate(pairs):
            if (first is a) is not (second is b):
                raise Unknown
            if first is a:
                return place
        small, large = _layout(first), _layout(second)
        sizes = [self._fit(a, b) for a, b in zip(small[0], large[0], strict=True)]
        steps = [self._fit(a, b) for a, b in zip(small[1], large[1], strict=True)]
        bare = torch.empty_strided(sizes, steps, dtype=first.dtype, device="meta")
        return Known((small, large), bare)

    def _fit(self, first: int, second: int) -> Any:
        """Return the size that is one number for one copy, and another for the other."""
        if first == second:
            return first
        for batch in self._batches:
            factor, rest = divmod(first, batch.small)
            if not rest and factor * batch.large == second:
                return batch.size * factor if factor != 1 else batch.size
        raise Unknown

    def _made(self, known: Any, operands: list[FakeTensor], device: torch.device) -> Any:
        """Return new fake tensors for what is known of a result."""
        if isinstance(known, (list, tuple)):
            return type(known)([self._made(one, operands, device) for one in known])
        if isinstance(known, int):
            return operands[known]
        with _bare():
            fake = FakeTensor(self._mode, known.symbolic, device)
        self._keep(fake, known.layouts)
        return fake


def _layout(tensor: torch.Tensor) -> Layout:
    return tuple(tensor.shape), tensor.stride()


# ---- operators whose result is laid out as their input -------------------------------------------


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operator, or where it is sure to return what its input looks like, say that."""
    if kwargs or (op not in ALIKE and op not in UNARY) or not args[0].is_contiguous():
        return op(*args, **kwargs)
    if op in UNARY and args[0].is_floating_point():
        return args[0] if op._schema.is_mutable else torch.empty_like(args[0])
    if op in ALIKE and ALIKE[op](*args):
        return torch.empty_like(args[0])
    return op(*args)


def _evaluating_batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> bool:
    return (
        not training
        and mean is not None
        and x.ndim > 1
        and all(
            one is None or (one.shape == x.shape[1:2] and one.dtype == x.dtype)
            for one in (weight, bias, mean, var)
        )
    )


def _layer_norm(x: Any, shape: list[int], weight: Any = None, bias: Any = None, *_: Any) -> bool:
    return list(x.shape[-len(shape) :]) == list(shape) and all(
        one is None or (one.shape == x.shape[-len(shape) :] and one.dtype == x.dtype)
        for one in (weight, bias)
    )


# of one tensor, and in its place where their name says so
UNARY = {
    getattr(torch.ops.aten, name + place).default
    for name in ["relu", "gelu", "silu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid"]
    for place in ("", "_")
}
# operator -> whether it surely does: its kernels for the meta device are written in Python, slow
ALIKE: dict[Any, Callable[..., bool]] = {
    torch.ops.aten.batch_norm.default: _evaluating_batch_norm,
    torch.ops.aten.layer_norm.default: _layer_norm,
}


@contextmanager
def _bare() -> Iterator[None]:
    """Call kernels alone: no mode, no autograd and no Python in between."""
    with (
        torch._C._DisableTorchDispatch(),
        torch._C._DisablePythonDispatcher(),
        torch._C._AutoDispatchBelowAutograd(),
        torch._C.DisableTorchFunction(),
    ):
        yield
