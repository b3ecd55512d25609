"""Turn a model into an ATen graph as `torch.export` has it, the caller's model untouched."""

from __future__ import annotations

import copy
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.capture.admission import admit, placed
from fxprune.capture.cached_shapes import forgotten, kept_shapes
from fxprune.capture.call_sites import Refused
from fxprune.capture.empty_tensors import joined_without
from fxprune.capture.exporting import FIXED, exported_freely, settled, widened
from fxprune.capture.fake_kernels import register
from fxprune.capture.fixed_batches import following_batch
from fxprune.capture.lifted_tensors import effect, unlifted
from fxprune.capture.modes import Modes, evaluated
from fxprune.capture.own_backward import attach_calls, marked, unkept
from fxprune.capture.results import Outputs, checked, counting
from fxprune.capture.training_only import attach, watched
from fxprune.capture.untouched import Held, said, untouched
from fxprune.capture.wanted_axes import Dynamic, Wanted
from fxprune.capture.wrappers import unwrapped
from fxprune.contexts import gc_paused, quiet
from fxprune.errors import CaptureError, InputError, first_line
from fxprune.program import Program
from fxprune.signature import Call, Signature, in_order, labels

if TYPE_CHECKING:
    from fxprune.capture.free_axes import Axes
ASKS = "the forward asks"  # how the reasons begin that the forward itself gives
LONGEST = 400  # characters of a reason: some name every symbol of a sum over 90 boxes
register()
ALONE = threading.RLock()  # while a model is captured, the class of all modules is watched
Spaces = Sequence[dict[str, Any]]
Recorded = tuple[fx.GraphModule, "Axes"]
Record = Callable[[torch.nn.Module, Call, "Axes", Spaces, Callable[[], Any]], Recorded]


def capture(
    model: torch.nn.Module | ExportedProgram,
    inputs: Any = None,
    dynamic: Dynamic = "auto",
    outputs: Outputs = None,
) -> Program:
    """Capture `model` on example `inputs`, with every axis free that the model lets vary.

    `inputs` is a tensor, a tuple of positional arguments, a dict of keyword arguments, or a pair of
    both; an `ExportedProgram` brings its own. `dynamic` says which axes may be free: "auto" all,
    "batch" the leading ones, or what `torch.export.export` takes as `dynamic_shapes`. `outputs`
    are the parts of the result that count, by name or place: the others are left out, and so is
    what no graph returns, such as a cache. Raises InputError where the model itself refuses the
    inputs, has no such output, or an axis that is asked for cannot be free, and CaptureError where
    only the export refuses the model.
    """
    outputs = checked(outputs)
    if isinstance(model, ExportedProgram):
        if outputs is not None:
            raise InputError("outputs: an ExportedProgram has those it was exported with")
        return _from_exported(model, inputs)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"model: a torch.nn.Module or torch.export.ExportedProgram is needed, "
            f"and this is a {type(model).__name__}"
        )
    known = getattr(model, "signature", None)
    if inputs is None and isinstance(known, Signature):  # a pruned module brings its own
        known = placed(known, model)
        inputs = (known.args, known.kwargs)
    args, kwargs = arguments(inputs)
    recorder()  # loaded before anything is watched
    with ALONE, unwrapped(model) as inner:
        kwargs = in_order(inner, kwargs)
        wanted = Wanted.of(dynamic, inner, args, kwargs)
        if isinstance(known, Signature) and known.axes:
            wanted = wanted.within(known)
        with counting(inner, outputs) as results:
            program = _captured(inner, args, kwargs, wanted)
    counted = getattr(known, "outputs", None) if outputs is None else outputs
    program = replace(program, signature=replace(program.signature, outputs=counted))
    program = program.noted(*results.notes())
    wanted.granted(program.signature)
    if isinstance(known, Signature) and known.axes:
        program = replace(program, signature=program.signature.within(known))
    return program


def _captured(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Wanted
) -> Program:
    """Capture a model that wraps no other."""
    admit(model)
    with (
        gc_paused(),
        evaluated(model) as modes,
        quiet(),
        watched(model) as readers,
        marked() as lost,
        untouched(model, args, kwargs) as held,
    ):
        program = _recorded(model, args, kwargs, wanted, held)
        changed = held.put_back()
        if program is None:
            readers.clear()
            exported, signature, notes = _export(model, args, kwargs, wanted, held)
            program = Program(unlifted(exported), signature, notes=notes)
            if not any(signature.dynamic):
                after = following_batch(program.module, signature)
                program = replace(program, signature=replace(signature, unchecked=after))
            changed = held.put_back()
        attach_calls(program.module.graph)
    called = replace(program.signature, training=modes.given[""])
    program = replace(program, signature=called).with_(modes)
    attach(graph := program.module.graph, model)
    program.module.recompile()
    return program.noted(*said(changed), *unkept(lost), *_unseen(graph, model, readers))


@cache
def recorder() -> Record | str:
    """Return what records a forward, or what of its private parts of torch is lacking.

    It brings the compiler of torch with it, which takes as long to load as torch does.
    """
    try:
        from fxprune.capture import recording
    except (AttributeError, ImportError) as missing:
        return first_line(missing)
    return recording.record


def prepare(model: Any) -> None:
    """Load what it takes to capture a model, so that this time is not counted as the capture's."""
    if isinstance(model, torch.nn.Module):
        recorder()


def record(
    model: torch.nn.Module,
    call: Call,
    axes: Axes,
    spaces: Spaces = (),
    again: Callable[[], Any] = lambda: None,
) -> Recorded:
    """Return the graph of a plain forward; raises Refused for what is out of the ordinary."""
    found = recorder()
    if isinstance(found, str):
        raise Refused(f"this torch lacks what recording is made of: {found}")
    return found(model, call, axes, spaces, again)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments."""
    if inputs is None:
        raise InputError(
            "inputs: example inputs are needed to trace a module; give a tuple of them"
        )
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):  # a dict, or what a tokenizer returns
        return (), dict(inputs)
    if not isinstance(inputs, (tuple, list)):
        raise InputError(
            f"inputs: a tuple of example inputs is needed, not {type(inputs).__name__}"
        )
    if len(inputs) == 2 and isinstance(inputs[0], (tuple, list)) and isinstance(inputs[1], Mapping):
        return tuple(inputs[0]), dict(inputs[1])
    return tuple(inputs), {}


def _unseen(graph: fx.Graph, model: torch.nn.Module, readers: set[str]) -> list[str]:
    """Say which modules may do something in training that the graph does not show."""
    shown: set[str] = set()
    for node in graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        flags = getattr(getattr(node.target, "_schema", None), "arguments", ())
        follows = any(flag.name in ("train", "training", "use_input_stats") for flag in flags)
        if stack and (follows or node.meta.get("module") is not None):
            shown.add(stack[-1][0])
    hidden: dict[str, int] = {}
    for path in readers - shown:
        name = type(model.get_submodule(path)).__name__
        hidden[name] = hidden.get(name, 0) + 1
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(hidden.items()))
    text = f"{listed}: what these do only in training mode is not captured; .train() lacks it"
    return [text] if hidden else []


def _recorded(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: Wanted,
    held: Held,
) -> Program | None:
    """Record the graph that the exporter would write, or return nothing where that is not sure."""
    call = widened(args, kwargs)
    program = _tape(model, call, wanted, held)
    if program is not None and call[0] is not args:
        try:  # what was captured of two examples must take the one that was given
            program.signature.check(pytree.tree_leaves((args, kwargs)))
        except InputError:
            program = _tape(model, (args, kwargs), wanted, held)
    return program


def _tape(model: torch.nn.Module, call: Call, wanted: Wanted, held: Held) -> Program | None:
    if isinstance(recorder(), str):
        return None
    from fxprune.capture.free_axes import Axes  # private parts of torch

    try:
        with torch.enable_grad():  # so that what stops gradients shows
            free = Axes.of(pytree.tree_leaves(call), wanted.places(call))
            module, axes = _widest(model, call, free, held)
        named = labels(model, *call)
        names, conditions, fixed = axes.facts(named)
    except Exception as error:  # Refused, or the model's own, which the exporter explains
        wanted.learned.append(getattr(error, "axes", None))
        return None
    joined_without(module.graph)
    module.graph.eliminate_dead_code(is_impure_node=effect)
    asked = module.meta.pop("asked")
    signature = Signature(*call, names, conditions, fixed, named)
    notes = [_chosen(asked)] if asked else []
    if not any(signature.dynamic):
        led = next((one for one in signature.fixed if one.axis == 0), None)
        why = f"{led.why}{f' ({led.line})' if led.line else ''}" if led else "no input has one"
        notes.append(f"{FIXED} {why}")
    return Program(module, signature).noted(*notes)


def _widest(model: torch.nn.Module, call: Call, free: Axes, held: Held) -> Recorded:
    """Return a recording, of as if no shape were kept where that leaves more axes free."""
    found: Recorded | None = None
    refused: Exception | None = None
    try:
        found = record(model, call, free, held.modules(), held.put_back)
    except Exception as error:
        refused = error
    known = found[1] if found is not None else getattr(refused, "axes", free)
    fixed = [place for place, (why, _) in known.fixed.items() if why.startswith(ASKS)]
    sizes = {free.leaves[k].shape[d] for k, d in fixed}
    for attributes in kept_shapes(model, sizes) if sizes else ():
        while attributes:
            again: Recorded | None = None
            held.put_back()
            with forgotten(attributes) as (overwritten, forget), suppress(Exception):

                def anew(forget: Callable[[], None] = forget) -> None:
                    held.put_back()
                    forget()

                again = record(model, call, free, held.modules(), anew)
            if again is not None and len(overwritten) == len(attributes):
                found = again if len(again[1].symbols) > len(known.symbols) else found
                break
            attributes = overwritten if len(overwritten) < len(attributes) else []
    if found is None:
        raise refused or Refused("nothing was recorded")
    return found


def _chosen(asked: list[str]) -> str:
    """Say that a forward depends on what some of its own tensors hold now."""
    some = ", ".join(asked[:3]) + (", …" if len(asked) > 3 else "")
    return f"the forward does what the values of {some} say now ({len(asked)} tensors in all)"


def _export(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wanted: Wanted,
    held: Held,
) -> tuple[ExportedProgram, Signature, tuple[str, ...]]:
    """Export with as many free axes as there can be."""
    try:
        return exported_freely(model, (args, kwargs), wanted, held)
    except Exception as error:
        held.put_back()
        raise _explained(model, args, kwargs, error) from error


def _explained(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> Exception:
    """Tell inputs that the model refuses from a model that the exporter refuses."""
    from fxprune.capture.trial import trial  # private parts of torch

    try:
        with torch.no_grad(), trial(model, args, kwargs):
            model(*args, **kwargs)
    except Exception as refused:
        return refusal(type(model).__name__, args, kwargs, refused)
    reason = textwrap.shorten(first_line(error), LONGEST, placeholder=" …")
    return CaptureError(
        f"capture: torch.export cannot trace {type(model).__name__}: {reason}; make "
        "this part of the forward traceable, or export the part of the model that is"
    )


def refusal(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
) -> InputError:
    """Return the error for inputs that a model refuses."""
    shapes = [
        f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
        for leaf in pytree.tree_leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor)
    ]
    return InputError(
        f"inputs: {name} refuses {', '.join(shapes) or 'them'}: {first_line(error)}; "
        "give inputs that model(*inputs) accepts"
    )


def _from_exported(exported: ExportedProgram, inputs: Any) -> Program:
    """Take a program as it is; inputs given with it, which it must accept, replace its own."""
    if inputs is None and exported.example_inputs is None:
        raise InputError("inputs: this ExportedProgram holds no example inputs; give some")
    args, kwargs = exported.example_inputs if inputs is None else arguments(inputs)
    if inputs is not None:
        try:
            with torch.no_grad(), quiet():
                copy.deepcopy(exported).module()(*args, **kwargs)
        except Exception as error:
            raise refusal("the ExportedProgram", args, kwargs, error) from error
    named = exported.call_spec.in_spec.child(1).context  # keyword arguments, in the graph's order
    kwargs = {name: kwargs[name] for name in named}
    signature = settled(exported, (tuple(args), kwargs), "the program was exported so")
    notes = () if any(signature.dynamic) else (f"{FIXED} the program was exported so",)
    with quiet():
        module = unlifted(exported)
    if not any(signature.dynamic):
        signature = replace(signature, unchecked=following_batch(module, signature))
    return Program(module, signature, notes=notes).with_(Modes())
