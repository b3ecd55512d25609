"""Have torch.export capture a model with as many free axes as it can."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.contexts import unsolved
from fxprune.errors import first_line
from fxprune.signature import (
    Call,
    Condition,
    FixedAxis,
    Signature,
    by_name,
    labels,
    parsed,
    spread,
)

if TYPE_CHECKING:
    from fxprune.capture.untouched import Held
    from fxprune.capture.wanted_axes import Wanted

Place = tuple[int, int]  # leaf and axis
FIXED = "the batch size is fixed:"
PARTS = 48  # of an expression that torch is asked to decide, at most
SECONDS = 12.0  # that an export with all axes free may take
SIMPLE = re.compile(r"\w+ == \w+|\w+ % \d+ == 0")
COMPUTED = "the model computes with its value"


def exported_freely(
    model: torch.nn.Module, call: Call, wanted: Wanted, held: Held
) -> tuple[ExportedProgram, Signature, tuple[str, ...]]:
    """Export with all wanted axes free, with the leading ones, or with none.

    Raises what the exporter raises where it refuses the model with every size fixed.
    """
    wide, first = widened(*call), None
    every = [place for place in wanted.places(wide) if place not in wanted.known]
    leading = [place for place in every if place[1] == 0]
    waiting, seen = [tuple(every), tuple(leading)], set[tuple[Place, ...]]()
    why = dict(wanted.known)
    while waiting:
        places = waiting.pop(0)
        if not places or places in seen:
            continue
        seen.add(places)
        try:
            exported = _exported(model, wide, places)
            signature = settled(exported, wide, COMPUTED, labels(model, *wide), why)
        except Exception as error:  # the exporter raises what it likes; the fixed export decides
            first = error
            held.put_back()
            continue
        tangled = _tangled(signature)
        if tangled:  # sizes that are told by such formulas are of no use to anyone
            why |= tangled
            waiting.insert(0, tuple(place for place in places if place not in tangled))
            held.put_back()
            continue
        notes = () if any(signature.dynamic) else (f"{FIXED} {COMPUTED}",)
        return exported, signature, notes
    exported = _exported(model, call, ())
    said = first_line(first) if first else ""
    note = f"the batch size is fixed by the example inputs: {said}" if first else ""
    signature = settled(exported, call, said or COMPUTED, labels(model, *call), why)
    return exported, signature, (note,) if note else ()


def _tangled(signature: Signature) -> dict[Place, tuple[str, str]]:
    """Return axes beside the leading ones of which an equation says more than a multiple."""
    found: dict[Place, tuple[str, str]] = {}
    for one in signature.conditions:
        if not SIMPLE.fullmatch(one.text):
            for k, names in enumerate(signature.axes):
                for d, name in enumerate(names):
                    if d and name in one.names:
                        found[k, d] = f"the model asks whether {one.text}", one.line
    return found


def _exported(model: torch.nn.Module, call: Call, places: tuple[Place, ...]) -> ExportedProgram:
    shapes = None
    if places:
        leaves, spec = pytree.tree_flatten(call)
        marks = [{d: Dim.AUTO for n, d in places if n == k} or None for k in range(len(leaves))]
        shapes = by_name(model, *spread(marks, spec))
    inner = any(d for _, d in places)
    # gradients, so that what stops them shows
    with torch.enable_grad(), unsolved(), bounded() if inner else nullcontext():
        return torch.export.export(model, *call, dynamic_shapes=shapes, strict=False)


class Tangled(Exception):
    """Say that an export asks for more about sizes than it could answer in time."""


@contextmanager
def bounded() -> Iterator[None]:
    """Stop an export whose questions about sizes get long: torch takes hours over some."""
    try:
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        evaluate: Any = ShapeEnv.evaluate_expr
    except (AttributeError, ImportError):  # a torch without this private part
        yield
        return
    start = time.monotonic()

    def asked(env: Any, expr: Any, *given: Any, **named: Any) -> Any:
        if time.monotonic() - start > SECONDS or _longer(expr, PARTS):
            raise Tangled("what the model asks about its sizes is too long to be answered")
        return evaluate(env, expr, *given, **named)

    ShapeEnv.evaluate_expr = asked  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        ShapeEnv.evaluate_expr = evaluate  # type: ignore[method-assign]


def _longer(expr: Any, most: int) -> bool:
    """Tell whether an expression has more than so many parts."""
    stack, seen = [expr], 0
    while stack and seen <= most:
        one = stack.pop()
        seen += 1
        stack += getattr(one, "args", ())
    return seen > most


def settled(
    exported: ExportedProgram,
    call: Call,
    why: str,
    named: tuple[str, ...] = (),
    known: Mapping[Place, tuple[str, str]] = MappingProxyType({}),
) -> Signature:
    """Read off an exported program which axes are free, and under which conditions."""
    leaves = pytree.tree_leaves(call)
    places = [node for node in exported.graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in places[len(places) - len(leaves) :]]
    names: dict[Any, str] = {}
    axes, fixed, derived = list[tuple[str | None, ...]](), list[FixedAxis](), list[Any]()
    for k, value in enumerate(values):
        mine = list[str | None]()
        shape: list[Any] = list(value.shape) if isinstance(value, torch.Tensor) else []
        for d, size in enumerate(shape):
            expr = None if isinstance(size, int) else size.node.expr
            if expr is None or size.node.maybe_as_int() is not None:
                mine.append(None)
                fixed.append(FixedAxis(k, d, *known.get((k, d), (why, ""))))
                continue
            if expr not in names:
                word = named[k] if named else str(places[len(places) - len(leaves) + k].name)
                names[expr] = f"{re.sub(r'[^0-9A-Za-z]+', '_', word).strip('_') or 'x'}_{d}"
                derived += [] if expr.is_Symbol else [expr]
            mine.append(names[expr])
        axes.append(tuple(mine))
    conditions = tuple(dict.fromkeys([*_related(derived, names), *_guarded(exported, names)]))
    return Signature(*call, tuple(axes), conditions, tuple(fixed), named)


def _related(derived: list[Any], names: dict[Any, str]) -> Iterator[Condition]:
    """Yield what sizes that are computed of others must be, such as `2*s0` an even number."""
    for expr in derived:
        if expr.free_symbols <= names.keys():
            text = _text(expr, names)
            if text is not None:
                yield Condition(f"{names[expr]} == {text}")
        else:
            factor, rest = expr.as_coeff_Mul()
            if rest.is_Symbol and factor.is_Integer:
                yield Condition(f"{names[expr]} % {int(factor)} == 0")


def _guarded(exported: ExportedProgram, names: dict[Any, str]) -> Iterator[Condition]:
    """Yield the equations among what was asked while the model was exported."""
    values = [node.meta.get("val") for node in exported.graph.nodes]
    sizes: list[Any] = [n for one in values if isinstance(one, torch.Tensor) for n in one.shape]
    env: Any = next((n.node.shape_env for n in sizes if isinstance(n, torch.SymInt)), None)
    for guard in env.guards if env is not None else ():
        expr = env.simplify(guard.expr)
        if type(expr).__name__ != "Equality" or not expr.free_symbols:
            continue
        text = _text(expr, names)
        if text is not None:
            where = getattr(getattr(guard, "sloc", None), "user_loc", None) or ""
            yield Condition(text, str(where).rpartition("/")[2].partition(" in ")[0])


def _text(expr: Any, names: dict[Any, str]) -> str | None:
    """Return an expression in the names of axes, or None where it is about more than these."""
    import sympy
    from torch.utils._sympy.printers import PythonPrinter

    known = {symbol: sympy.Symbol(name) for symbol, name in names.items() if symbol.is_Symbol}
    if not expr.free_symbols <= known.keys():
        return None
    text = str(PythonPrinter().doprint(expr.xreplace(known)))
    try:
        parsed(text)
    except ValueError:
        return None
    return text


def widened(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Double inputs of batch size 1, which the exporter would take for a constant."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
    if not sizes or sizes[0] != 1:
        return args, kwargs
    leaves = [
        torch.cat([leaf, leaf])
        if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == 1
        else leaf
        for leaf in leaves
    ]
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return tuple(args), dict(kwargs)
