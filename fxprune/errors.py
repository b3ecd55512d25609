"""Errors a user can meet: each names the place, the fact and the next step."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

LONGEST = 80  # characters of a value that is shown


class FxpruneError(Exception):
    """Stand at the root of every error that fxprune raises on purpose."""


class SpecError(FxpruneError):
    """Report a pruning specification that cannot be meant: an unknown key, name or value."""


class SpecErrors(SpecError):
    """Report all that is wrong with a specification: `lines` has one line on each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)

    def __reduce__(self) -> Any:
        return SpecErrors, (self.lines,)


class InputError(FxpruneError):
    """Report example inputs that the model refuses: a wrong shape, dtype or structure."""


class CalibrationError(FxpruneError):
    """Report calibration batches, or a loss, from which no score can be computed."""


class CallbackError(FxpruneError):
    """Report an `evaluate` or `fine_tune` that failed, or returned something unusable."""


class CheckpointError(FxpruneError):
    """Report a checkpoint that belongs to another model or specification, or is damaged."""


class CaptureError(FxpruneError):
    """Report a model that `torch.export` cannot turn into a graph."""


class FileError(FxpruneError):
    """Report a file that cannot be read or written, or is not what its name says."""


class UntrustedFileError(FileError):
    """Report a file that would run code when it is loaded; `trust=True` (`--trust`) allows it."""


class PluginError(FxpruneError):
    """Report a plug-in that cannot be loaded or used, and the distribution or file it is of."""


class PassError(FxpruneError):
    """Report a pass whose requirements are not met, or whose result broke its promise."""


class ObjectiveError(FxpruneError):
    """Report an objective that the targets cannot reach, with the nearest that they can.

    `least` is the smallest share of the original that they can reach, where that is the obstacle.
    """

    least: float | None = None


class VerifyError(FxpruneError):
    """Report two forms of one model that give different numbers."""


class WriteBackError(FxpruneError):
    """Report a model that cannot be narrowed as its class is written; it was left as it was.

    `targets` are the names of those to leave out, and `place` is the line that is in the way.
    """

    targets: tuple[str, ...] = ()
    place: str = ""


class ExportError(FxpruneError):
    """Report a model that cannot be written as ONNX, or that ONNX Runtime runs differently."""


def first_line(error: BaseException | None) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def root_cause(error: BaseException, limit: int) -> str:
    """Return the type and, in one line of at most `limit` characters, the words of the cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:limit]}"


def shown(value: Any) -> str:
    """Return a value of the user's in one short line, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a table in itself
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def unknown(what: str, name: str, known: Any) -> str:
    """Say that a name is unknown, what is near it, and what is legal."""
    near = get_close_matches(str(name), list(known), 1)
    guess = f'; did you mean "{near[0]}"?' if near else ";"
    name = name if len(str(name)) <= LONGEST else f"{name[:LONGEST]}…"
    return f'unknown {what} "{name}"{guess} known: {", ".join(known) or "none"}'
