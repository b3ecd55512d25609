"""Commands over ONNX files, and how they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from fxprune.cli.app import app
from fxprune.errors import FxpruneError


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def refuses(arguments: tuple[str, ...], error: type[FxpruneError], said: str) -> None:
    """Hold a command to an error of one line."""
    done = call(*arguments)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=said) as caught:
        raise done.exception
    assert "\n" not in str(caught.value)
