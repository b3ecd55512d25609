"""Run a file of the user's that registers rules, metrics and so on: only on his explicit word."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

from fxprune.errors import FileError, FxpruneError, PluginError, root_cause

_RUN: dict[str, bytes] = {}  # path -> what was run of it


def run_file(path: Path) -> None:
    """Import a Python file as `fxprune_plugin_NAME`; it is not run again while it stays as it is.

    Raises FileError where it cannot be read, PluginError where it raises.
    """
    if path.suffix != ".py":
        raise FileError(f"{path}: a plug-in is a Python file, whose name ends in .py")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    place = str(path.resolve())
    if _RUN.get(place) == source:
        return
    name = "fxprune_plugin_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise FileError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it is the user's own program
        del sys.modules[name]
        said = str(error) if isinstance(error, FxpruneError) else root_cause(error, 200)
        raise PluginError(f"{path}: the plug-in raised {said}") from error
    _RUN[place] = source
