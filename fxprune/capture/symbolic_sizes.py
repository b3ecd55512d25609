"""Compute what an operator returns for inputs of any size from what it returns for a few sizes.

A fake tensor whose sizes are symbols makes Python derive every size of every result. Here each such
tensor has *copies* on the meta device, one for each column of sizes, and the operator's own kernel
is called for all of them. A size of the result that is one number in all columns is that number,
and one that is a known size, or a product of such, in all of them is that. For what is neither,
such as the height behind a convolution, the operator is asked in symbols, once, and its formula
must give what the kernels gave. Where a kernel refuses a column that another takes, the question
that tells them apart is raised as a Restart. No size is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fxprune.capture.free_axes import Restart
from fxprune.capture.size_questions import SizeEnv, Unknown, Vector, asking_line, same

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides
FACTORS = 5  # known sizes that a size is a product of, at most
OPAQUE = 10_000_000  # symbols from here on have no formula
Asked = list[tuple[Any, Vector]]


@dataclass(frozen=True)
class Known:
    """Hold a result: its copies' layouts, and a bare tensor whose sizes are symbols."""

    layouts: tuple[Layout, ...]
    symbolic: torch.Tensor


class SymbolicSizes:
    """Run operators on copies of fake tensors, and make fake tensors of the results.

    What an operator returns follows from the layouts of its operands and its other arguments, so
    each such combination is computed once.
    """

    def __init__(self, mode: FakeTensorMode, env: SizeEnv) -> None:
        self._mode, self._env = mode, env
        self._copies: dict[int, tuple[torch.Tensor, ...]] = {}
        self._layouts: dict[int, Any] = {}
        self._hold: list[torch.Tensor] = []  # keeps the tensors whose id() is a key alive
        self._results: dict[Any, Any] = {}
        self._laid_out: dict[Any, Known] = {}
        self._sizes: dict[Vector, torch.SymInt] = {}  # each size by its columns
        self._asked: Asked | None = None  # where an operator's own questions are noted
        self.bases: dict[Any, frozenset[Any]] = {}  # of symbols without a formula: what they follow

    def add(self, size: torch.SymInt) -> None:
        """Make a size known, so that those of results are told by it."""
        self._sizes.setdefault(self._env.vector(size), size)

    def asked(self, expr: Any, values: Vector) -> bool:
        """Take a question, if it is an operator that asks."""
        if self._asked is None:
            return False
        self._asked.append((expr, values))
        return True

    @contextmanager
    def asking(self) -> Iterator[Asked]:
        """Note what is asked while operators run in symbols."""
        before, self._asked = self._asked, []
        try:
            yield self._asked
        finally:
            self._asked = before

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

    def in_symbols(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an operator itself makes of symbols; raises Restart where it depends."""
        with self.asking() as asked:
            out = op(*args, **kwargs)
        for expr, values in asked:
            if not same(values):
                raise Restart(holding(expr, values), asking_line(), by=op.overloadpacket.__name__)
        return out

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

    def _keep(self, fake: FakeTensor, layouts: tuple[Layout, ...]) -> None:
        self._layouts[id(fake)] = (fake.dtype, *layouts)
        self._hold.append(fake)

    def _derive(self, fake: FakeTensor) -> None:
        """Learn the layouts of a fake tensor from its symbols."""
        shape = [self._env.vector(n) for n in fake.shape]
        strides = [self._env.vector(n) for n in fake.stride()]
        columns = range(self._env.columns)
        self._keep(
            fake,
            tuple((tuple(n[j] for n in shape), tuple(n[j] for n in strides)) for j in columns),
        )

    def _copied(self, fake: FakeTensor) -> tuple[torch.Tensor, ...]:
        """Return the copies of a fake tensor: one several times where no size is symbolic."""
        if id(fake) not in self._copies:
            dtype, *layouts = self._layouts[id(fake)]
            made: dict[Layout, torch.Tensor] = {}
            with bare():
                for layout in layouts:
                    if layout not in made:
                        made[layout] = torch.empty_strided(*layout, dtype=dtype, device="meta")
            self._copies[id(fake)] = tuple(made[layout] for layout in layouts)
        return self._copies[id(fake)]

    def _computed(
        self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[FakeTensor]
    ) -> Any:
        """Return what an operator returns for all copies."""
        copies = [self._copied(fake) for fake in operands]
        fixed = all(one is many[0] for many in copies for one in many)
        results: list[Any] = []
        for j in range(self._env.columns):
            given = self._told(args, j), self._told(kwargs, j)
            if j and fixed and given == (self._told(args, 0), self._told(kwargs, 0)):
                results.append(results[0])
                continue
            try:
                with bare():
                    results.append(run(op, *given))
            except Exception as error:
                if not j:
                    raise Unknown from error
                raise self._blamed(op, args, kwargs, operands, j) from error
        return self._known(results, copies, lambda: op(*args, **kwargs), operands)

    def _told(self, value: Any, j: int) -> Any:
        """Return an argument for one of the columns."""
        if isinstance(value, FakeTensor):
            return self._copies[id(value)][j]
        if isinstance(value, torch.SymInt):
            return self._env.vector(value)[j]
        if isinstance(value, (list, tuple)):
            return type(value)([self._told(one, j) for one in value])
        if isinstance(value, dict):
            return {name: self._told(one, j) for name, one in value.items()}
        return value

    # ---- what is refused -------------------------------------------------------------------------

    def _blamed(
        self,
        op: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: Sequence[FakeTensor],
        j: int,
    ) -> Restart:
        """Return the question on which depends whether an operator takes a column."""
        line = asking_line()
        with self.asking() as asked:
            try:
                op(*args, **kwargs)
            except Exception:  # what it asked before is what there is
                asked = list(asked)
        for expr, values in asked:
            if values[j] != values[0]:
                return Restart(holding(expr, values), line, by=op.overloadpacket.__name__)
        name = op.overloadpacket.__name__
        about = frozenset[Any]().union(*(self._free(one) for one in [*operands, args, kwargs]))
        return Restart(sum(about), line, f"{name} takes no other size here")

    def _free(self, value: Any) -> frozenset[Any]:
        """Return the symbols of the sizes of an argument."""
        if isinstance(value, FakeTensor):
            return frozenset[Any]().union(*(self._free(size) for size in _symbolic(value)))
        if isinstance(value, torch.SymInt):
            return frozenset(value.node.expr.free_symbols)
        if isinstance(value, (list, tuple)):
            return frozenset[Any]().union(*(self._free(one) for one in value))
        if isinstance(value, dict):
            return self._free(list(value.values()))
        return frozenset()

    # ---- the sizes of results --------------------------------------------------------------------

    def _known(
        self,
        results: Sequence[Any],
        copies: Sequence[tuple[torch.Tensor, ...]],
        formula: Callable[[], Any] | None,
        operands: Sequence[FakeTensor],
    ) -> Any:
        """Compare results: the place of an operand that is returned itself, or what is new."""
        first = results[0]
        if isinstance(first, (list, tuple)):
            if any(len(one) != len(first) for one in results):
                raise Unknown
            told = cache(formula) if formula is not None else None
            return type(first)(
                [
                    self._known(
                        [one[k] for one in results],
                        copies,
                        partial(_part, told, k) if told is not None else None,
                        operands,
                    )
                    for k in range(len(first))
                ]
            )
        if type(first) is not torch.Tensor or any(one.ndim != first.ndim for one in results):
            raise Unknown
        for place, many in enumerate(copies):
            same_one = [one is many[j] for j, one in enumerate(results)]
            if all(same_one):
                return place
            if any(same_one):
                raise Unknown
        layouts = tuple([(tuple(one.shape), one.stride()) for one in results])
        if (first.dtype, layouts) in self._laid_out:
            return self._laid_out[first.dtype, layouts]
        near: list[Any] = [size for fake in operands for size in _symbolic(fake)]
        vectors = [tuple(shape[d] for shape, _ in layouts) for d in range(first.ndim)]
        sizes: list[Any] = [self._fit(vector, near) for vector in vectors]
        if any(size is None for size in sizes) and formula is not None:
            self._learn(formula, vectors)
            sizes = [self._fit(vector, near) for vector in vectors]
        sizes = [
            self._opaque(vector, near) if size is None else size
            for size, vector in zip(sizes, vectors, strict=True)
        ]
        near += [size for size in sizes if isinstance(size, torch.SymInt)]
        steps = [tuple(strides[d] for _, strides in layouts) for d in range(first.ndim)]
        fits = [self._fit(step, near) for step in steps]
        strides = [
            self._opaque(step, near) if fit is None else fit
            for fit, step in zip(fits, steps, strict=True)
        ]
        with bare(), self.asking():
            symbolic = torch.empty_strided(sizes, strides, dtype=first.dtype, device="meta")
        self._laid_out[first.dtype, layouts] = found = Known(layouts, symbolic)
        return found

    def _learn(self, formula: Callable[[], Any], vectors: Sequence[Vector]) -> None:
        """Make known what an operator makes of symbols, as far as the kernels agree."""
        with self.asking() as asked:
            try:
                out = formula()
            except Exception:
                return
        if not isinstance(out, torch.Tensor) or out.ndim != len(vectors):
            return
        shape: list[Any] = list(out.shape)
        for size, vector in zip(shape, vectors, strict=True):
            if self._env.vector(size) != vector:
                for expr, values in asked:
                    if not same(values):
                        raise Restart(holding(expr, values), asking_line(), by="an operator")
            elif isinstance(size, torch.SymInt):
                self.add(size)

    def known(self, vector: Vector) -> Any:
        """Return the size that has these columns, or None."""
        return self._fit(vector, [])

    def _fit(self, vector: Vector, near: Sequence[torch.SymInt]) -> Any:
        """Return the size that has these columns: a number, a known size or a product of some."""
        if same(vector):
            return vector[0]
        if vector in self._sizes:
            return self._sizes[vector]
        known = {self._env.vector(size): size for size in near}
        for one in [*known, *self._sizes]:
            times = vector[0] // one[0] if one[0] else 0
            if times and all(times * b == a for a, b in zip(vector, one, strict=True)):
                return (known.get(one) or self._sizes[one]) * times
        return self._product(vector, known, FACTORS)

    def _product(self, vector: Vector, known: Mapping[Vector, torch.SymInt], left: int) -> Any:
        """Return a product of a number and known sizes, or None."""
        if same(vector):
            return vector[0]
        if vector in known:
            return known[vector]
        for one, size in known.items() if left else ():
            if same(one) or any(not b or a % b for a, b in zip(vector, one, strict=True)):
                continue
            rest = tuple(a // b for a, b in zip(vector, one, strict=True))
            found = self._product(rest, known, left - 1)
            if found is not None:
                return size * found
        return None

    def _opaque(self, vector: Vector, near: Sequence[torch.SymInt]) -> Any:
        """Return a symbol for a size that no formula tells."""
        if vector not in self._sizes:
            size = self._env.symbol(OPAQUE + len(self.bases), vector)
            about = self._free(list(near))
            wider = [self.bases.get(symbol, frozenset([symbol])) for symbol in about]
            self.bases[size.node.expr] = frozenset[Any]().union(*wider)
            self._sizes[vector] = size
        return self._sizes[vector]

    def _made(self, known: Any, operands: list[FakeTensor], device: torch.device) -> Any:
        """Return new fake tensors for what is known of a result."""
        if isinstance(known, (list, tuple)):
            return type(known)([self._made(one, operands, device) for one in known])
        if isinstance(known, int):
            return operands[known]
        with bare():
            fake = FakeTensor(self._mode, known.symbolic, device)
        self._keep(fake, known.layouts)
        return fake


def _symbolic(fake: torch.Tensor) -> list[Any]:
    """Return the sizes of a tensor that are no numbers."""
    shape: list[Any] = list(fake.shape)
    return [size for size in shape if isinstance(size, torch.SymInt)]


def holding(expr: Any, values: Vector) -> Any:
    """Return what a question says of the example: the condition under which it is answered so."""
    if isinstance(values[0], bool):
        return expr if values[0] else sympy.Not(expr)
    return sympy.Eq(expr, values[0])


def _part(told: Callable[[], Any], k: int) -> Any:
    return told()[k]


# ---- operators whose result is laid out as their input -------------------------------------------


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an operator, or where it is sure to return what its input looks like, say that."""
    if op in RECURRENT and not kwargs and (found := _recurrent(*args)) is not None:
        return found
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


def _recurrent(x: Any, state: Any, weights: Any, *others: Any) -> Any:
    """Return what a recurrent network does, without its steps, of which there are many."""
    _, _, _, _, bidirectional, batch_first = others
    states = [state] if isinstance(state, torch.Tensor) else list(state)
    steps, batch = (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])
    if x.shape[-1] != weights[0].shape[1] or any(one.shape[1] != batch for one in states):
        return None
    out = x.new_empty((steps, batch, states[0].shape[2] * (2 if bidirectional else 1)))
    return (out.transpose(0, 1) if batch_first else out, *map(torch.empty_like, states))


aten = torch.ops.aten
RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}
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
def bare() -> Iterator[None]:
    """Call kernels alone: no mode, no autograd and no Python in between."""
    with (
        torch._C._DisableTorchDispatch(),
        torch._C._DisablePythonDispatcher(),
        torch._C._AutoDispatchBelowAutograd(),
        torch._C.DisableTorchFunction(),
    ):
        yield
