"""Sizes in a graph: each symbolic one is read off a tensor that has it, or computed of such."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils._sympy.functions import FloorDiv, Max, Min, Mod, PythonMod

from fxprune.capture.call_sites import Refused

aten = torch.ops.aten
BINARY: dict[type, Callable[..., Any]] = {
    FloorDiv: operator.floordiv,
    Mod: operator.mod,
    PythonMod: operator.mod,
    Max: torch.sym_max,
    Min: torch.sym_min,
}


class SizeNodes:
    """Write sizes into a graph, each once."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._nodes: dict[Any, fx.Node] = {}
        self._places: dict[Any, tuple[fx.Node, int]] = {}  # tensors that have a size

    def of(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Take a tensor for the sizes that no other had before."""
        shape: list[Any] = list(tensor.shape)
        for d, size in enumerate(shape):
            if not isinstance(size, int):
                self._places.setdefault(size.node.expr, (node, d))

    def __call__(self, value: torch.SymInt) -> Any:
        """Return the node of a size, or the number that it is; raises Refused for unusual ones."""
        env: Any = value.node.shape_env
        return self._of(value.node.expr, lambda expr: env.of(expr))

    def _of(self, expr: Any, sized: Callable[[Any], Any]) -> Any:
        if expr.is_Integer:
            return int(expr)
        if expr not in self._nodes:
            self._nodes[expr] = node = self._written(expr, sized)
            node.meta["val"] = sized(expr)
        return self._nodes[expr]

    def _written(self, expr: Any, sized: Callable[[Any], Any]) -> fx.Node:
        if expr.is_Symbol and expr in self._places:
            return self._read(expr)
        factor, rest = expr.as_coeff_Mul()
        if factor != 1 and factor.is_Integer:
            return self._called(operator.mul, [rest, factor], sized)
        if expr in self._places:
            return self._read(expr)
        if expr.is_Mul or expr.is_Add:
            first, *others = sorted(expr.args, key=lambda one: (one.is_number, str(one)))
            inner = expr.func(*others) if len(others) > 1 else others[0]
            return self._called(
                operator.mul if expr.is_Mul else operator.add, [first, inner], sized
            )
        if expr.is_Pow and expr.exp.is_Integer and expr.exp > 1:
            return self._called(operator.mul, [expr.base, expr.base ** (expr.exp - 1)], sized)
        called = BINARY.get(expr.func)
        if called is not None and len(expr.args) == 2:
            return self._called(called, list(expr.args), sized)
        raise Refused(f"a size is {expr}")

    def _read(self, expr: Any) -> fx.Node:
        """Read a size off the first tensor that has it, right behind it."""
        node, d = self._places[expr]
        last = node
        while last.op == "placeholder" and last.next.op == "placeholder":
            last = last.next
        with self._graph.inserting_after(last):
            return self._graph.call_function(aten.sym_size.int, (node, d))

    def _called(
        self, called: Callable[..., Any], parts: list[sympy.Expr], sized: Callable[[Any], Any]
    ) -> fx.Node:
        return self._graph.call_function(called, tuple(self._of(one, sized) for one in parts))
