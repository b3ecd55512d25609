"""The command line, called as a shell calls it but in this process."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pytest

from fxprune.cli.app import main


class Done(NamedTuple):
    """Hold what a command left behind."""

    status: int
    out: str
    err: str


def called(patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], *words: str) -> Done:
    """Call `fxprune` with words; return its status, what it says, and its errors."""
    patch.setattr(sys, "argv", ["fxprune", *words])
    capture.readouterr()
    status: Any = 0
    try:
        main()
    except SystemExit as stopped:
        status = stopped.code
    return Done(int(status or 0), *capture.readouterr())
