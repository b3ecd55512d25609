"""Write a pruned module back into the model it came from, or apply its plan to a new one."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from fxprune.capture import placed, unwrapped
from fxprune.capture.capturing import arguments
from fxprune.errors import InputError, WriteBackError
from fxprune.files.described_inputs import counted_of, made
from fxprune.graphs import tensors_of
from fxprune.plan import Plan
from fxprune.signature import Signature
from fxprune.surgery.own_class.narrowing import narrow

M = TypeVar("M", bound=nn.Module)


def write_back(slim: nn.Module, plan: Any, signature: Any, model: M) -> M:
    """Narrow the model that was pruned, in place, and give it the pruned module's weights."""
    if not isinstance(plan, Plan) or not isinstance(signature, Signature):
        raise WriteBackError(
            "write_back: this module has no plan or no example inputs; give one that prune or "
            "load returned"
        )
    with unwrapped(model) as inner:
        narrow(inner, plan, placed(signature, inner), slim)
    return model


def apply(plan: Plan, model: M, inputs: object = None) -> M:
    """Narrow a model in place, built like the one that was pruned, and return it.

    It keeps its own numbers, cut as `plan` says; `load_state_dict` then takes the pruned ones.
    `inputs` are example inputs as `prune` takes them; a plan that `prune` made knows of what shapes
    they were. Raises InputError where the plan is of another model, and WriteBackError where the
    class cannot say some width: then nothing is changed.
    """
    if inputs is not None:
        args, kwargs = arguments(inputs)
    elif plan.inputs is not None:
        device = next((t.device for t in tensors_of(model).values()), None)
        args, kwargs = made(plan.inputs, device or nn.Parameter().device)
    else:
        raise InputError("apply: this plan does not know its example inputs; give inputs=")
    with unwrapped(model) as inner:
        narrow(inner, plan, Signature(args, kwargs, outputs=counted_of(plan.inputs)))
    return model
