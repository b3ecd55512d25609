"""The law of a rule: dropping units ≡ zeroing them, on the real operator or in a small module."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.errors import VerifyError
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.surgery import kept_indices, shrink, zeroed_reads
from fxprune.targets import couple

RANDOM_DRAWS = 4
MOST_ALONE = 12


@dataclass(frozen=True)
class Input:
    """Mark an operand that is an input of the model instead of a parameter."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Held:
    """Mark an operand that is a buffer, although it holds numbers with a point."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Sample:
    """Hold an operator and its arguments; `values=False` compares shapes only (randomness)."""

    operator: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    values: bool = True

    @property
    def text(self) -> str:
        """Show the call, tensors by their shapes."""
        shown = [_show(arg) for arg in self.args]
        shown += [f"{name}={_show(arg)}" for name, arg in self.kwargs.items()]
        return f"{str(self.operator).removeprefix('aten.')}({', '.join(shown)})"


def _show(arg: Any) -> str:
    if isinstance(arg, Input):
        return f"input {_show(arg.tensor)}"
    if isinstance(arg, Held):
        return f"buffer {_show(arg.tensor)}"
    if isinstance(arg, torch.Tensor):
        kind = "" if arg.is_floating_point() else str(arg.dtype).removeprefix("torch.")
        return kind + "[" + " ".join(map(str, arg.shape)) + "]"
    if isinstance(arg, (list, tuple)):
        return "(" + ", ".join(map(_show, arg)) + ")"
    return repr(arg)


@dataclass
class Case:
    """Hold a graph whose operands are parameters, coupled, with its inputs."""

    module: fx.GraphModule
    inputs: tuple[Any, ...]
    values: bool = True
    pin_outputs: bool = False
    keywords: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def coupling(self) -> Coupling:
        return couple(self.module, pin_outputs=self.pin_outputs)

    @cached_property
    def reads(self) -> list[fx.Node]:
        return [node for node in self.module.graph.nodes if node.op == "get_attr"]

    @cached_property
    def results(self) -> list[TensorGuard]:
        output = next(node for node in self.module.graph.nodes if node.op == "output")
        found = [self.coupling.values[node] for node in pytree.tree_leaves(output.args)]
        return [value for value in found if isinstance(value, TensorGuard)]

    @cached_property
    def units(self) -> list[int]:
        """Return every class of variables that can leave, by its representative."""
        guards = self.coupling.guards
        every = np.arange(1, guards.size)[:, None]
        return sorted(set(np.unique(guards.normal(every)).tolist()) - {0})

    @cached_property
    def approximate(self) -> set[int]:
        normal, rankings = self.coupling.guards.normal, self.coupling.rankings
        chosen = {k for r in rankings if r.chosen for k in normal(r.guard).ravel().tolist()}
        return {
            unit
            for mark in self.coupling.approximate
            for unit in normal(mark.guard).ravel().tolist()
            if not (mark.weighed and unit in chosen)
        }

    def dims(self) -> Iterator[Ids]:
        for node in self.reads:
            value = self.coupling.values[node]
            if isinstance(value, TensorGuard):
                yield from value.dims
        for result in self.results:
            yield from result.dims

    def draws(self) -> Iterator[list[int]]:
        """Yield units alone, then some random subsets of them."""
        random = np.random.default_rng(0)
        alone = random.permutation(self.units)[:MOST_ALONE]
        yield from ([int(unit)] for unit in alone)
        for _ in range(RANDOM_DRAWS if len(self.units) > 1 else 0):
            yield [unit for unit in self.units if random.random() < 0.4]

    def alive(self, dropped: list[int]) -> Mask:
        alive = np.ones(self.coupling.guards.size, dtype=bool)
        alive[dropped] = False
        return alive

    def check(self, dropped: list[int]) -> bool:
        """Drop some units and compare with zeroing them; an axis is never emptied.

        Returns whether they could be dropped; raises VerifyError where the two differ.
        """
        alive = self.alive(dropped)
        kept = Kept(self.coupling.guards, alive)
        if any(len(g) and not kept.mask(g).any() for g in self.dims()):
            return False
        if any(kept.mask(r.guard).sum() < r.least for r in self.coupling.rankings):
            return False
        small = shrink(self.module, self.coupling, alive)
        zeroed = self.zeroed(alive)
        with torch.no_grad():
            actual, full = self.run(small), self.run(zeroed)
        exact = self.values and not self.approximate & set(dropped)
        for found, whole, guard in zip(actual, full, self.results, strict=True):
            _agree([len(g) for g in guard.dims], list(whole.shape), "the sizes of a result")
            masks = [torch.from_numpy(kept.mask(g)) for g in guard.dims]
            if guard.numbers is not None:
                whole = _renumbered(whole, kept.mask(guard.numbers))
            expected = _restricted(whole, masks)
            _agree(list(found.shape), list(expected.shape), "the sizes of a shrunk result")
            if not exact:
                continue
            _close(found, expected)
            for d, zero in enumerate(guard.zero):
                if zero and guard.dims[d].shape[1]:
                    lost = _restricted(whole, [*masks[:d], ~masks[d], *masks[d + 1 :]])
                    if lost.any():
                        raise VerifyError(f"axis {d} is said to be zero where dropped: {lost}")
        return True

    def zeroed(self, alive: Mask) -> fx.GraphModule:
        read, _ = zeroed_reads(self.module, self.coupling, alive)
        zeroed = copy.deepcopy(read)
        for name, axes in kept_indices(self.module, self.coupling, alive).items():
            tensor = dict(zeroed.named_parameters(remove_duplicate=False)).get(name)
            if tensor is None:
                continue
            for d, index in enumerate(axes):
                drop = np.setdiff1d(np.arange(tensor.shape[d]), index.numpy())
                tensor.data.index_fill_(d, torch.from_numpy(drop), 0)
        return zeroed

    def run(self, module: fx.GraphModule) -> list[torch.Tensor]:
        torch.manual_seed(0)
        leaves = pytree.tree_leaves(module(*self.inputs, **self.keywords))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _agree(found: list[int], wanted: list[int], what: str) -> None:
    if found != wanted:
        raise VerifyError(f"{what} are {found}, and should be {wanted}")


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    try:
        torch.testing.assert_close(found, expected, equal_nan=True)
    except AssertionError as error:
        said = " ".join(str(error).split())
        raise VerifyError(f"dropped, it gives other numbers than zeroed: {said}") from None


def _restricted(tensor: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    for d, mask in enumerate(masks):
        tensor = tensor.index_select(d, mask.nonzero()[:, 0])
    return tensor


def _renumbered(numbers: torch.Tensor, kept: Mask) -> torch.Tensor:
    """Return numbers of indices, each counted among what is kept."""
    return (torch.from_numpy(kept).cumsum(0) - 1)[numbers]


@dataclass
class Builder:
    """Put operands in a graph: floats as parameters, others as buffers, inputs as inputs."""

    clones: bool  # an operator that writes gets copies
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    inputs: list[torch.Tensor] = field(default_factory=list)

    def place(self, arg: Any) -> Any:
        """Return an argument with nodes for its tensors."""
        if isinstance(arg, (list, tuple)):
            return type(arg)(self.place(one) for one in arg)
        if isinstance(arg, Input):
            self.inputs.append(arg.tensor)
            return self.valued(self.graph.placeholder(f"x{len(self.inputs)}"), arg.tensor)
        if isinstance(arg, Held):
            return self.read(arg.tensor, trained=False)
        return self.read(arg) if isinstance(arg, torch.Tensor) else arg

    def read(self, tensor: torch.Tensor, trained: bool = True) -> fx.Node:
        """Return a node that reads a tensor of the module."""
        name = f"operand{len(list(self.root.parameters())) + len(list(self.root.buffers()))}"
        if trained and (tensor.is_floating_point() or tensor.is_complex()):
            self.root.register_parameter(name, nn.Parameter(tensor))
        else:
            self.root.register_buffer(name, tensor)
        node = self.valued(self.graph.get_attr(name), tensor)
        clone = torch.ops.aten.clone.default
        return (
            self.valued(self.graph.call_function(clone, (node,)), tensor) if self.clones else node
        )

    def valued(self, node: fx.Node, value: Any) -> fx.Node:
        """Give a node the value that it produces."""
        node.meta["val"] = value
        return node


def build(sample: Sample) -> Case:
    """Build a graph of one call, its results its outputs."""
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, _bare(sample))
    with torch.no_grad():
        value = sample.operator(*args, **kwargs)
    builder = Builder(sample.operator._schema.is_mutable)
    placed = tuple(builder.place(list(sample.args)))
    named = {name: builder.place(arg) for name, arg in sample.kwargs.items()}
    graph = builder.graph
    node = builder.valued(graph.call_function(sample.operator, placed, named), value)
    outputs = [node]
    if isinstance(value, (tuple, list)):
        outputs = [
            builder.valued(graph.call_function(operator.getitem, (node, k)), one)
            for k, one in enumerate(value)
        ]
    graph.output(tuple(outputs))
    module = fx.GraphModule(builder.root, graph)
    return Case(module, tuple(builder.inputs), sample.values)


def _bare(sample: Sample) -> Any:
    strip = lambda a: a.tensor if isinstance(a, (Input, Held)) else a  # noqa: E731
    is_leaf = lambda a: isinstance(a, (Input, Held))  # noqa: E731
    return pytree.tree_map(strip, (list(sample.args), dict(sample.kwargs)), is_leaf=is_leaf)
