"""Call what the caller gave, and say in one line what went wrong with it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fxprune.errors import CallbackError, FxpruneError, first_line
from fxprune.program import tensors_of


def called(name: str, call: Callable[[], None]) -> None:
    """Make a call; what it raises becomes a CallbackError that names the callback."""
    try:
        call()
    except FxpruneError:
        raise
    except Exception as error:
        raise CallbackError(
            f"{name}: it raised {type(error).__name__}: {first_line(error)}"
        ) from error


def check_finite(module: nn.Module, number: int) -> None:
    """Raise CallbackError where a tensor of a module is not finite after a fine-tuning."""
    for name, tensor in tensors_of(module).items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CallbackError(
                f"fine_tune: after call {number} {name} holds values that are not finite; lower "
                "the learning rate, or look at the loss"
            )
