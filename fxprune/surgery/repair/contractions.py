"""Contractions of data with a weight, each as rows of features times a matrix.

Whatever its form, a contraction is `Y[b] = X[b] · W[b]` for blocks `b`: groups of channels,
experts, or one. `X` is `[B, S, K]`, `W` `[B, K, N]` and `Y` `[B, S, N]`; a row is an example, a
token or a position, and the first rows belong to the first examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from fxprune.rules.products import is_weight
from fxprune.surgery.repair.weights import Entries, entries_of

Edges = set[tuple[fx.Node, fx.Node]]


class Form(ABC):
    """Say how the operands of a kind of contraction become rows and matrices."""

    @abstractmethod
    def matrix(self, weight: Tensor) -> Tensor:
        """Return a weight, or the places of its entries, as `[B, K, N]`."""

    @abstractmethod
    def table(self, x: Tensor) -> Tensor:
        """Return the data in the form of which `features` takes rows."""

    @abstractmethod
    def features(self, table: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of a table of data as `[B, rows, K]`."""

    @abstractmethod
    def results(self, y: Tensor) -> Tensor:
        """Return results as `[B, S, N]`."""


@dataclass(frozen=True, eq=False)
class Contraction:
    """Hold one call: its data, the places `[B, K, N]` of its weight, `[B, N]` of its bias."""

    node: fx.Node
    data: fx.Node
    weight: Entries
    places: Tensor
    form: Form
    bias: Entries | None = None
    shift: Tensor | None = None

    @property
    def edges(self) -> Edges:
        """Return who reads what on the way from the parameters to the call."""
        chains = [one.chain for one in (self.weight, self.bias) if one is not None]
        steps = [zip(chain, (*chain[1:], self.node), strict=True) for chain in chains]
        return {edge for step in steps for edge in step}


Found = Contraction | str | None
Reader = Callable[[fx.GraphModule, fx.Node], Found]
READERS: dict[Any, Reader] = {}


def reads(*operators: Any) -> Callable[[Reader], Reader]:
    """Register a function that reads a call of some operators as a contraction."""

    def decorate(reader: Reader) -> Reader:
        READERS.update(dict.fromkeys(operators, reader))
        return reader

    return decorate


def contraction_of(module: fx.GraphModule, node: fx.Node) -> Found:
    """Return a call as a contraction, why it cannot be refitted, or None for other calls."""
    reader = READERS.get(node.target) if node.op == "call_function" else None
    return reader(module, node) if reader is not None else None


def made(
    module: fx.GraphModule, node: fx.Node, data: Any, weight: Any, form: Form, bias: Any = None
) -> Found:
    """Return a contraction of data and a weight, with its bias where that is a parameter."""
    if not is_weight(weight) or not isinstance(data, fx.Node):
        return None
    entries = entries_of(module, weight)
    if isinstance(entries, str):
        return entries
    places = form.matrix(entries.index)
    found = Contraction(node, data, entries, places, form)
    if bias is None:
        return found
    added = entries_of(module, bias)
    if isinstance(added, str):
        return added.replace("weight", "bias")
    if added.index.numel() != places[:, 0].numel():
        return "its bias is no vector of outputs"
    return replace(found, bias=added, shift=added.index.reshape(places[:, 0].shape))
