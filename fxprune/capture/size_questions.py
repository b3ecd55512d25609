"""Sizes as symbols that stand for several numbers at once, and what is asked about them.

Each symbol has the example's size and some others, its *columns*. A question about sizes is
answered as it is for the example, and handed on together with the answers for the other columns:
where they differ, the recording holds only under a condition.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, make_symbol
from torch.utils._sympy.value_ranges import ValueRanges

Vector = tuple[Any, ...]  # a number for each column
Ask = Callable[[Any, Vector], None]
OWN = (
    os.path.dirname(torch.__file__) + os.sep,
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
)

SYMBOLIC = ("sym_node.py", "symbolic_shapes.py")  # of torch, where what asks comes from


class Unknown(Exception):
    """Say that the columns do not tell what is asked."""


class SizeEnv(ShapeEnv):
    """Answer what is asked about symbolic sizes by the example, without guards of torch's own."""

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self.ask = ask
        self.values: dict[Any, Vector] = {}  # of each symbol
        self._vectors: dict[Any, Vector] = {}  # of each expression

    def symbol(self, number: int, vector: Vector) -> Any:
        """Return the symbol of a number as a size; the same number is the same symbol."""
        symbol = numbered(number)
        if symbol not in self.values:
            self.values[symbol] = vector
            self.add_var_to_val(symbol, vector[0])
            self.var_to_range[symbol] = ValueRanges(0, int_oo)
        return self.of(symbol)

    def of(self, expr: Any) -> Any:
        """Return an expression as a size."""
        if expr.is_Integer:
            return int(expr)
        return self.create_symintnode(expr, hint=self.evaluated(expr)[0])

    def vector(self, size: int | torch.SymInt) -> Vector:
        """Return a size in every column."""
        if isinstance(size, int):
            return (size,) * self.columns
        return self.evaluated(size.node.expr)

    @property
    def columns(self) -> int:
        """Return how many columns there are."""
        return len(next(iter(self.values.values()), (0,)))

    def evaluated(self, expr: Any) -> Vector:
        """Return what an expression is in every column; raises Unknown for other symbols."""
        found = self._vectors.get(expr)
        if found is None:
            free = expr.free_symbols
            if not free <= self.values.keys():
                raise Unknown
            found = tuple(
                number(expr.xreplace({s: sympy.Integer(self.values[s][j]) for s in free}))
                for j in range(self.columns)
            )
            self._vectors[expr] = found
        return found

    def evaluate_sym_node(self, sym_node: Any, *_: Any, **__: Any) -> Any:
        """Answer a question that a size, or a comparison of sizes, is asked."""
        return self._answered(sym_node.expr)

    def evaluate_expr(self, orig_expr: Any, *_: Any, **__: Any) -> Any:
        """Answer a question that is an expression."""
        return self._answered(orig_expr)

    def guard_or_defer_runtime_assert(  # type: ignore[override]
        self, orig_expr: Any, *_: Any, **__: Any
    ) -> bool:
        """Answer what `torch._check` asks."""
        return bool(self._answered(orig_expr))

    def _answered(self, expr: Any) -> Any:
        if not getattr(expr, "free_symbols", None):
            return expr
        values = self.evaluated(expr)
        self.ask(expr, values)
        return sympy.sympify(values[0])


def numbered(number: int) -> Any:
    """Return the symbol of a number."""
    return make_symbol(SymT.SIZE, number, positive=True, integer=True)


def number(value: Any) -> Any:
    """Return a constant expression as a number or a truth value."""
    if value in (sympy.true, sympy.false):
        return bool(value)
    if getattr(value, "is_Integer", False):
        return int(value)
    if getattr(value, "is_number", False) and value.is_real:
        return float(value)
    raise Unknown


def asking_line() -> str:
    """Return the innermost line that runs outside of torch and of here, as `file.py:12`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OWN) and not file.startswith("<"):
            return f"{os.path.basename(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def asked_in_python() -> bool:
    """Tell whether Python asks, not a kernel: it makes a number or a truth value of a size."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file == torch.__file__:
            return True
        if not file.startswith(OWN[1]) and not file.endswith(SYMBOLIC):
            return False
        frame = frame.f_back
    return False


def same(vector: Sequence[Any]) -> bool:
    """Tell whether all columns are one."""
    return all(one == vector[0] for one in vector[1:])
