"""Prove that a narrowed model computes what the smaller graph does, or say where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxprune.capture import capture, counting
from fxprune.capture.untouched import Held
from fxprune.errors import WriteBackError, root_cause
from fxprune.files.described_inputs import described, made
from fxprune.graphs import arguments, tensors_of, tolerance
from fxprune.rules import Coupling, Kept, Value, shape_of
from fxprune.signature import Signature
from fxprune.surgery.own_class.traced import numbers
from fxprune.surgery.own_class.wanted import ALIKE, alike
from fxprune.surgery.own_class.watching import watched
from fxprune.surgery.verification import outputs, relative

RTOL = 1e-5
LONGEST = 200  # characters of what a model raised
MORE = 3  # inputs on which a forward that goes another way is compared as well
CPU = torch.device("cpu")
Call = tuple[tuple[Any, ...], dict[str, Any]]
aten = torch.ops.aten
# what these return is told by its shapes alone
SHAPED = {"expand", "unflatten", "flatten", "repeat", "squeeze"}.union(*ALIKE)


@dataclass(frozen=True, eq=False)
class Fault:
    """Hold a node of the original graph at which a narrowed model is not the smaller graph."""

    node: fx.Node | None
    fact: str
    other_way: bool = False  # other operators are called, which may come to the same


@dataclass(frozen=True)
class Proof:
    """Hold what a narrowed model is compared with: the original graph, and the smaller one."""

    original: fx.Graph
    coupling: Coupling
    kept: Kept
    smaller: fx.GraphModule
    signature: Signature
    calls: dict[fx.Node, int] = field(default_factory=dict)  # which call of a forward a node is

    def fault(self, model: nn.Module) -> Fault | None:
        """Return where a model differs from the smaller graph, or nothing."""
        held = Held(model)
        try:
            try:
                call, counted = (self.signature.args, self.signature.kwargs), self.signature.outputs
                again = capture(model, call, outputs=counted).module
            except Exception as error:  # what a wrong size raises, is the model's own affair
                return self._raised(model, error)
            return self._compared(again.graph, model)
        finally:
            held.put_back()

    def _compared(self, again: fx.Graph, model: nn.Module) -> Fault | None:
        """Compare graphs and numbers; of a forward that goes another way, by more numbers.

        So does one that repeats heads only where there is more than one to a group.
        """
        found = self._constants(again)
        bare = any(tensor.is_meta for tensor in tensors_of(self.smaller).values())
        if bare or (found is not None and not found.other_way):  # without numbers, graphs must do
            return found
        forms = self._examples(MORE if found is not None else 0)
        return (found or wrong) if (wrong := self._numbers(model, forms)) is not None else None

    def _shape(self, node: fx.Node | None) -> Any:
        """Return the shape that a result must have, or those of several, as far as it is known."""
        return self._of(self.coupling.values.get(node)) if node is not None else None

    def _of(self, value: Value) -> Any:
        if isinstance(value, tuple):
            return tuple(self._of(one) for one in value)
        if value is None:
            return None
        return tuple(int(self.kept.mask(g).sum()) for g in value.dims)

    def _raised(self, model: nn.Module, error: Exception) -> Fault:
        """Find the operator at which a model raises, or has another shape."""
        calls, _ = watched(model, self.signature.args, self.signature.kwargs)
        told = f"it raises {root_cause(error, LONGEST)}"
        for node, place in self.calls.items():
            if place >= len(calls) or not alike(calls[place].operator, node.target):
                return Fault(node, told)
            wanted, found = self._shape(node), calls[place].shape
            if not _fits(wanted, found):
                return Fault(node, f"{found} stands where {wanted} is needed; {told}")
        return Fault(None, told)

    def _constants(self, again: fx.Graph) -> Fault | None:
        """Compare the operators, their operands and constants, one by one."""
        twins = {node.name: node for node in self.original.nodes}
        ours, theirs = list(computing(self.smaller.graph)), list(computing(again))
        places = {node: k for nodes in (ours, theirs) for k, node in enumerate(nodes)}
        for k, mine in enumerate(ours):
            source = twins.get(mine.name)
            if k == len(theirs) or not alike(theirs[k].target, mine.target):
                other = theirs[k].target if k < len(theirs) else "nothing"
                near = source or self._nearest(mine, twins)
                fact = f"the smaller graph calls {mine.target}, the model {other}"
                return Fault(near, fact, other_way=True)
            shape, found = self._shape(source), sizes(theirs[k].meta.get("val"))
            if not _fits(shape, found):
                return Fault(source, f"{found} stands where {shape} is needed")
            if fact := _different(mine, theirs[k], places):
                return Fault(source, fact)
        return None

    def _nearest(self, node: fx.Node, twins: Mapping[str, fx.Node]) -> fx.Node | None:
        """Return the original of the next node that has one, for one that a rule put in."""
        while node.op != "root" and node.name not in twins:
            node = node.next
        return twins.get(node.name)

    def _numbers(self, model: nn.Module, forms: Sequence[Call]) -> Fault | None:
        """Run both on some inputs."""
        allowed = tolerance(self.smaller, RTOL)
        for args, kwargs in forms:
            try:
                ours = outputs(self.smaller, args, kwargs)
            except Exception:  # another number of examples is refused by the original as well
                continue
            try:
                theirs = self._theirs(model, args, kwargs)
            except Exception as error:
                return Fault(None, f"it raises {root_cause(error, LONGEST)}")
            if fact := unlike(ours, theirs, allowed):
                return Fault(None, fact)
        return None

    def _theirs(self, model: nn.Module, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """Return what counts of what a model returns."""
        with counting(model, self.signature.outputs):
            return outputs(model, args, kwargs)

    def _examples(self, more: int) -> list[Call]:
        """Return the example inputs, those of another batch size, and `more` of other numbers."""
        signature = self.signature
        forms = [(signature.args, signature.kwargs)]
        if signature.batch is not None and any(signature.dynamic):
            with suppress(Exception):  # such as inputs whose other leaves go with the batch
                forms.append(signature.resized(signature.batch + 1))
        said = described(signature.args, signature.kwargs) if more else None
        if said is not None:
            device = next((t.device for t in tensors_of(self.smaller).values()), CPU)
            forms += [made(said, device, seed) for seed in range(more)]
        return forms

    def equal(self, model: nn.Module, twin: nn.Module) -> bool:
        """Tell whether two models give the same numbers on the examples."""
        held = Held(model)
        try:
            args, kwargs = self.signature.args, self.signature.kwargs
            ours, theirs = (self._theirs(one, args, kwargs) for one in (model, twin))
        finally:
            held.put_back()
        return not unlike(ours, theirs, tolerance(self.smaller, RTOL))

    def same(self, slim: nn.Module, model: nn.Module) -> None:
        """Raise WriteBackError where the pruned module's numbers are not the narrowed model's."""
        held = Held(model)
        try:
            args, kwargs = self.signature.args, self.signature.kwargs
            ours, theirs = outputs(slim, args, kwargs), self._theirs(model, args, kwargs)
        finally:
            held.put_back()
        if fact := unlike(ours, theirs, tolerance(self.smaller, RTOL)):
            raise WriteBackError(
                f"write_back: the pruned module does more than its plan says ({fact}), such as "
                "masks of activations or folded constants; the model was left as it was. Use the "
                "pruned module itself"
            )


def unlike(ours: list[torch.Tensor], theirs: list[torch.Tensor], allowed: float) -> str:
    """Say how outputs differ, or nothing."""
    if [a.shape for a in ours] != [b.shape for b in theirs]:
        return f"outputs are of {[tuple(b.shape) for b in theirs]}"
    worst = max((relative(a, b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return "" if worst <= allowed else f"its numbers differ by {worst:.1e}"


def computing(graph: fx.Graph) -> Iterator[fx.Node]:
    """Yield the operators of a graph that compute tensors."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not str(node.target).startswith(
            ("aten.sym_", "aten._assert")
        ):
            yield node


def sizes(value: Any) -> Any:
    """Return the sizes of a tensor, or of several, symbolic ones by their hints."""
    if isinstance(value, (tuple, list)):
        return tuple(sizes(one) for one in value)
    return shape_of(value) if isinstance(value, torch.Tensor) else None


def _fits(wanted: Any, found: Any) -> bool:
    """Tell whether shapes agree, as far as they are known."""
    if wanted is None or found is None:
        return True
    if any(isinstance(one, (tuple, type(None))) for one in wanted):
        return len(wanted) == len(found) and all(map(_fits, wanted, found))
    return bool(wanted == found)


def _different(mine: fx.Node, other: fx.Node, places: Mapping[fx.Node, int]) -> str:
    """Say which constant or operand of two calls of one operator differs, or nothing."""
    shaped = mine.target.overloadpacket.__name__ in SHAPED  # type: ignore[union-attr]
    pairs = zip(arguments(mine).items(), arguments(other).values(), strict=False)
    for (name, one), another in pairs:
        left, right = numbers(one), numbers(another)
        if len(left) != len(right) and not shaped:
            return f"{name} has {len(right)} entries, and {len(left)} are needed"
        for a, b in zip(left, right, strict=False):
            if isinstance(a, fx.Node) and isinstance(b, fx.Node):
                if places.get(a, -1) != places.get(b, -1):
                    return f"{name} is of another operator"
            elif isinstance(a, fx.Node) or isinstance(b, fx.Node):
                if not shaped:
                    return f"{name} is {b}, and {a} is needed"
            elif a != b and not shaped and not _past_the_end(name, a, b, mine):
                return f"{name} is {b}, and {a} is needed"
    return ""


def _past_the_end(name: str, a: Any, b: Any, node: fx.Node) -> bool:
    """Tell whether both ends of a slice stand past the end of what is sliced."""
    return name == "end" and node.target is aten.slice.Tensor and bool(b > a)
