"""What custom operators are in ONNX: the functions that plug-ins register for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fxprune.plugins import load_all

T = TypeVar("T", bound=Callable[..., Any])
TRANSLATIONS: dict[Any, Callable[..., Any]] = {}  # operator -> function of onnxscript


def translates(*operators: Any) -> Callable[[T], T]:
    """Register the decorated function as what `operators` are in ONNX.

    It is a function of onnxscript, or a Python function that builds the graph from
    `onnxscript.opset18` and the like: an entry of the `custom_translation_table` of
    `torch.onnx.export`, which takes the operator's arguments and returns its results.
    """

    def decorate(function: T) -> T:
        TRANSLATIONS.update(dict.fromkeys(operators, function))
        return function

    return decorate


def translations() -> dict[Any, Callable[..., Any]]:
    """Return the table for `torch.onnx.export`, that of plug-ins of rules among it."""
    load_all("fxprune.rules")
    return dict(TRANSLATIONS)
