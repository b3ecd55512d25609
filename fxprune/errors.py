"""Errors a user can meet: each names the place, the fact and the next step."""

from __future__ import annotations


class FxpruneError(Exception):
    """Stand at the root of every error that fxprune raises on purpose."""


class SpecError(FxpruneError):
    """Report a pruning specification that cannot be meant: an unknown key, name or value."""


class InputError(FxpruneError):
    """Report example inputs that the model refuses: a wrong shape, dtype or structure."""


class CalibrationError(FxpruneError):
    """Report calibration batches, or a loss, from which no score can be had."""


class CallbackError(FxpruneError):
    """Report an `evaluate` or `fine_tune` that failed, or gave what is of no use."""


class CheckpointError(FxpruneError):
    """Report a checkpoint that belongs to another model or specification, or is damaged."""


class CaptureError(FxpruneError):
    """Report a model that `torch.export` cannot turn into a graph."""


class FileError(FxpruneError):
    """Report a file that cannot be read or written, or is not what its name says."""


class UntrustedFileError(FileError):
    """Report a file that would run code when it is loaded; `trust=True` (`--trust`) allows it."""


class PassError(FxpruneError):
    """Report a pass whose requirements are not met, or whose result broke its promise."""


class ObjectiveError(FxpruneError):
    """Report an objective that the targets cannot reach, with the nearest that they can.

    `least` is the share of the original that they can go down to, where that is what is in the way.
    """

    least: float | None = None


class VerifyError(FxpruneError):
    """Report two forms of one model that give different numbers."""


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
