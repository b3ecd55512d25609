"""Which models can be captured as they are; for the rest, what to hand over instead."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from fxprune.errors import InputError
from fxprune.graphs import tensors_of
from fxprune.signature import Signature


def admit(model: nn.Module) -> None:
    """Raise InputError for modules without Python, tensors in shards or without sizes, devices."""
    for path, module in model.named_modules():
        place = f"{path} ({_name(module)})" if path else f"this {_name(module)}"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"model: {place} is a torch.jit module, of which no Python is left to capture; "
                "hand over the module that it was made of, and script the result"
            )
        if "_fsdp_wrapped_module" in module._modules:
            raise InputError(f"model: {place} is sharded over processes; {WHOLE}")
    devices: dict[torch.device, str] = {}
    for name, tensor in tensors_of(model).items():
        if is_lazy(tensor):
            raise InputError(
                f"model: {name} has no size yet; run the model once on example inputs, then prune"
            )
        if hasattr(tensor, "full_tensor"):
            raise InputError(f"model: {name} is sharded over processes; {WHOLE}")
        if tensor.ndim:  # numbers may lie elsewhere
            devices.setdefault(tensor.device, name)
    if len(devices) > 1:
        listed = " and ".join(f"{name} on {device}" for device, name in devices.items())
        raise InputError(f"model: {listed}; move it to one device, as with model.to(device)")


WHOLE = (
    "hand over the model that was sharded, with the weights that "
    "torch.distributed.checkpoint.state_dict.get_model_state_dict gathers "
    "(StateDictOptions(full_state_dict=True))"
)


def placed(signature: Signature, model: nn.Module) -> Signature:
    """Return a signature with its example inputs where the model is: it may have been moved."""
    device = next((tensor.device for tensor in tensors_of(model).values() if tensor.ndim), None)
    if device is None:
        return signature
    args, kwargs = pytree.tree_map_only(
        torch.Tensor,
        lambda leaf: leaf if leaf.is_meta else leaf.to(device),
        (signature.args, signature.kwargs),
    )
    return replace(signature, args=args, kwargs=kwargs)


def _name(module: nn.Module) -> str:
    return str(getattr(module, "original_name", type(module).__name__))
