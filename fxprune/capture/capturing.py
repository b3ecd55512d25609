"""Turn a model into an ATen graph as `torch.export` has it, the caller's model untouched."""

from __future__ import annotations

import copy
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from fxprune.capture.admission import admit, placed
from fxprune.capture.call_sites import Refused
from fxprune.capture.fake_kernels import register
from fxprune.capture.lifted_tensors import effect, unlifted
from fxprune.capture.modes import Modes, evaluated
from fxprune.capture.own_backward import attach_calls, marked, unkept
from fxprune.capture.training_only import attach, watched
from fxprune.capture.untouched import Held, said, untouched
from fxprune.capture.wrappers import unwrapped
from fxprune.contexts import gc_paused, quiet
from fxprune.errors import CaptureError, InputError, first_line
from fxprune.program import Program, Signature

LONGEST = 400  # characters of a reason: some name every symbol of a sum over 90 boxes
register()
ALONE = threading.RLock()  # while a model is captured, the class of all modules is watched
Record = Callable[[torch.nn.Module, Signature], fx.GraphModule]


def capture(model: torch.nn.Module | ExportedProgram, inputs: Any = None) -> Program:
    """Capture `model` on example `inputs`, the leading axis dynamic where the model allows it.

    `inputs` is a tensor, a tuple of positional arguments, a dict of keyword arguments, or a pair of
    both; an `ExportedProgram` brings its own. Raises InputError where the model itself refuses the
    inputs, and CaptureError where only the export does.
    """
    if isinstance(model, ExportedProgram):
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
        return _captured(inner, args, kwargs)


def _captured(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
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
        program = _recorded(model, args, kwargs)
        changed = held.put_back()
        if program is None:
            readers.clear()
            exported, signature, notes = _export(model, args, kwargs, held)
            program = Program(unlifted(exported), Signature(**signature), notes=notes)
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


def record(model: torch.nn.Module, signature: Signature) -> fx.GraphModule:
    """Return the graph of a plain forward; raises Refused for what is out of the ordinary."""
    found = recorder()
    if isinstance(found, str):
        raise Refused(f"this torch lacks what recording is made of: {found}")
    return found(model, signature)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return example inputs as positional and keyword arguments."""
    if inputs is None:
        raise InputError(
            "inputs: example inputs are needed to trace a module; give a tuple of them"
        )
    if isinstance(inputs, torch.Tensor):
        return (inputs,), {}
    if isinstance(inputs, dict):
        return (), dict(inputs)
    if not isinstance(inputs, (tuple, list)):
        raise InputError(
            f"inputs: a tuple of example inputs is needed, not {type(inputs).__name__}"
        )
    if len(inputs) == 2 and isinstance(inputs[0], (tuple, list)) and isinstance(inputs[1], dict):
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
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Program | None:
    """Record the graph that the exporter would write, or return nothing where that is not sure."""
    args, kwargs, batch = widened(args, kwargs)
    if batch is None:
        return None
    signature = Signature(args, kwargs, led(args, kwargs, batch), batch)
    try:
        with torch.enable_grad():  # so that what stops gradients shows
            module = record(model, signature)
    except Exception:  # Refused, or the model's own, which the exporter explains
        return None
    module.graph.eliminate_dead_code(is_impure_node=effect)
    asked = module.meta.pop("asked")
    return Program(module, signature).noted(*([_chosen(asked)] if asked else []))


def _chosen(asked: list[str]) -> str:
    """Say that a forward depends on what some of its own tensors hold now."""
    some = ", ".join(asked[:3]) + (", …" if len(asked) > 3 else "")
    return f"the forward does what the values of {some} say now ({len(asked)} tensors in all)"


def _export(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], held: Held
) -> tuple[ExportedProgram, dict[str, Any], tuple[str, ...]]:
    """Export with a dynamic leading axis, or with every size fixed where that fails."""
    wide_args, wide_kwargs, batch = widened(args, kwargs)
    first: Exception | None = None
    if batch is not None:
        try:
            wanted = Signature(wide_args, wide_kwargs, led(wide_args, wide_kwargs, batch))
            shapes = wanted.dynamic_shapes(model)
            with torch.enable_grad():  # so that what stops gradients shows
                exported = torch.export.export(
                    model, wide_args, wide_kwargs, dynamic_shapes=shapes, strict=False
                )
            return _settled(exported, wide_args, wide_kwargs, batch)
        except Exception as error:  # the exporter raises what it likes; the fixed export decides
            first = error
            held.put_back()
    try:
        with torch.enable_grad():  # so that what stops gradients shows
            exported = torch.export.export(model, args, kwargs, strict=False)
    except Exception as error:
        held.put_back()
        raise _explained(model, args, kwargs, error) from error
    note = f"the batch size is fixed by the example inputs: {first_line(first)}" if first else ""
    return exported, {"args": args, "kwargs": kwargs}, (note,) if note else ()


def _settled(
    exported: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int
) -> tuple[ExportedProgram, dict[str, Any], tuple[str, ...]]:
    """Read off the exported program which leading axes are still dynamic."""
    leaves = pytree.tree_leaves((args, kwargs))
    places = [node for node in exported.graph.nodes if node.op == "placeholder"][-len(leaves) :]
    values = [node.meta.get("val") for node in places]
    dynamic = tuple(
        isinstance(value, torch.Tensor) and value.ndim > 0 and _free(value.shape[0])
        for value in values
    )
    signature = {"args": args, "kwargs": kwargs}
    if not any(dynamic):
        return exported, signature, ("the batch size is fixed: the model computes with its value",)
    return exported, signature | {"dynamic": dynamic, "batch": batch}, ()


def _free(size: int | torch.SymInt) -> bool:
    """Tell a symbolic size from a number, and from a symbol that was found to be one number."""
    return not isinstance(size, int) and size.node.maybe_as_int() is None


def widened(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], int | None]:
    """Double inputs of batch size 1, which the exporter would take for a constant."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.ndim]
    if not sizes or sizes[0] == 0:
        return args, kwargs, None
    batch = sizes[0]
    if batch == 1:
        leaves = [
            torch.cat([leaf, leaf])
            if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == 1
            else leaf
            for leaf in leaves
        ]
        batch = 2
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return tuple(args), dict(kwargs), batch


def led(args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> tuple[bool, ...]:
    """Return for each leaf of the inputs whether its leading axis is as long as the batch."""
    return tuple(
        isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch
        for leaf in pytree.tree_leaves((args, kwargs))
    )


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
    batch = next(
        (leaf.shape[0] for leaf in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(leaf)),
        None,
    )
    _, found, notes = _settled(exported, tuple(args), dict(kwargs), batch or 1)
    notes = notes and ("the batch size is fixed: the program was exported so",)
    with quiet():
        module = unlifted(exported)
    return Program(module, Signature(**found), notes=notes).with_(Modes())
