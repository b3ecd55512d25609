"""Prune a part of a model that cannot be captured whole: as it is called when the model runs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.capture import refusal
from fxprune.capture.capturing import arguments
from fxprune.capture.modes import evaluated
from fxprune.capture.untouched import Held
from fxprune.contexts import quiet
from fxprune.errors import InputError, SpecError, unknown
from fxprune.loop.caller_functions import Callbacks
from fxprune.loop.own_module import prune_own_class
from fxprune.spec import Spec

M = TypeVar("M", bound=nn.Module)
Call = tuple[tuple[Any, ...], dict[str, Any]]


def prune_part(model: M, part: str, spec: Spec, inputs: Any, calls: Callbacks) -> M:
    """Return a copy of a model of which one part is pruned, into its own class.

    The model runs once on the example inputs, and the part is captured on what it is given then;
    its own outputs are pinned. Where it is called several times the first call is the example, and
    the narrowed part must take the others, too. Raises InputError for a part that the model does
    not have, or does not call.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(f"part: a torch.nn.Module is needed, and this is a {type(model).__name__}")
    names = [name for name, _ in model.named_modules() if name]
    if part not in names:
        raise InputError(f"part: {unknown('module', part, names)}")
    if calls.optimizer is not None:
        raise InputError("part: an optimizer is of the whole model; make it anew afterwards")
    whole = model.get_submodule(part)
    listed = given_to(model, whole, inputs)
    if not listed:
        raise InputError(f"part: the model does not call {part} on these inputs")
    (args, kwargs), *others = listed
    own_part = prune_own_class(whole, spec, (args, kwargs), calls)
    own = deepcopy(model)
    own.set_submodule(part, own_part)
    _check(own_part, part, others)
    told = f"of the model only {part} was looked at, and its outputs are as wide as before"
    found: Any = own_part
    report = vars(own_part).get("report")
    if report is not None and not hasattr(own, "report"):
        setattr(own, "report", replace(found.report, notes=(*found.report.notes, told)))  # noqa: B010
    if "plan" in vars(own_part) and not hasattr(own, "plan"):
        setattr(own, "plan", found.plan)  # noqa: B010
    return own


def given_to(model: nn.Module, part: nn.Module, inputs: Any) -> list[Call]:
    """Return what a part of a model is given while that runs once, call by call."""
    args, kwargs = arguments(inputs)
    found: list[Call] = []

    def note(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        found.append((given, dict(named)))

    held = Held(model)
    hook = part.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluated(model), torch.no_grad(), quiet():
            model(*args, **kwargs)
    except Exception as error:
        raise refusal(type(model).__name__, args, kwargs, error) from error
    finally:
        hook.remove()
        held.put_back()
    return found


def _check(own: nn.Module, part: str, others: list[Call]) -> None:
    """Raise InputError where the narrowed part does not take what the part itself takes."""
    for args, kwargs in others:
        with evaluated(own), torch.no_grad(), quiet():
            try:
                own(*args, **kwargs)
            except Exception as error:
                raise InputError(
                    f"part: {part} is called in several ways, and its narrowed form does not take "
                    f"all of them: {error}"
                ) from error
