"""The passes by their names, those over ONNX graphs among them, which are loaded when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fxprune import pipeline
from fxprune.errors import SpecError


def parse_passes(text: str) -> tuple[pipeline.Pass, ...]:
    """Parse a list of passes, every pass of the distribution known."""
    with suppress(SpecError):  # perhaps for a pass over ONNX graphs, and ONNX is loaded for those
        return pipeline.parse(text)
    every_pass()
    return pipeline.parse(text)


def every_pass() -> Mapping[str, type[Any]]:
    """Return all passes by name, with those over ONNX graphs, which load ONNX."""
    from fxprune.onnx.passes import PASSES

    return PASSES


def described_passes() -> list[tuple[str, str, str]]:
    """Return the name, options and one line of every pass."""
    described: list[tuple[str, str, str]] = []
    for name, cls in sorted(every_pass().items()):
        listed = ", ".join(map(str, pipeline.options(cls)))
        line = (cls.__doc__ or "").strip().splitlines()[0]
        described.append((name, f"{{{listed}}}" if listed else "", line))
    return described
