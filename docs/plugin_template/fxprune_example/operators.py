"""An operator of our own: how it runs, which axes it couples, and what it is in ONNX."""

from typing import Any

import torch

from fxprune.extend import rule, translates


@torch.library.custom_op("fxprune_example::scaled_tanh", mutates_args=())
def scaled_tanh(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return tanh(x)·scale; `x` is `[..., c]` and `scale` is `[c]`."""
    return torch.tanh(x) * scale


@scaled_tanh.register_fake
def _(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def _saved(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x, scale = ctx.saved_tensors
    y = torch.tanh(x)
    return gradient * scale * (1 - y * y), (gradient * y).flatten(0, -2).sum(0)


scaled_tanh.register_autograd(_backward, setup_context=_saved)

# the last axis of x, the only one of scale and the last of the result are one and the same; where
# either operand is zero, so is the result
rule(torch.ops.fxprune_example.scaled_tanh.default, "... c, c -> ... c")


@translates(torch.ops.fxprune_example.scaled_tanh.default)
def _onnx(x: Any, scale: Any) -> Any:
    from onnxscript import opset18 as op  # only who exports needs it

    return op.Mul(op.Tanh(x), scale)
