"""How the command line starts: help, version and completion without torch; and how it stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fxprune
from fxprune.cli import explain
from tests.support.command import Done

ROOT = Path(fxprune.__file__).parent.parent
HEAVY = {"torch", "numpy", "scipy", "onnx", "onnxruntime", "onnxscript", "onnx_graphsurgeon"}
COMMANDS = (
    *(
        "inspect",
        "prune",
        "prune-checkpoint",
        "speedup",
        "export",
        "run",
        "passes",
        "bench",
        "compact",
        "explain",
        "diff",
    ),
    *("spec check", "spec show", "spec list", "spec schema"),
)
TOLD = [
    *(["--help"], ["--version"], ["spec", "--help"], ["spec", "list"], ["spec", "show", "agp"]),
    *([*command.split(), "--help"] for command in COMMANDS),
]
SCRIPT = """
import json, sys
from fxprune.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["fxprune", *arguments]
    try:
        main()
    except SystemExit as stopped:
        assert not stopped.code, arguments
print(json.dumps([*sys.modules]))
"""

COMPLETION = """
import atexit, json, sys
from fxprune.cli import main

atexit.register(lambda: print(json.dumps([*sys.modules])))
sys.argv = ["fxprune"]
main()
"""


def process(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_and_version_load_no_torch() -> None:
    *told, modules = process(SCRIPT, json.dumps(TOLD)).splitlines()
    assert HEAVY & {*json.loads(modules)} == set()
    assert f"fxprune {fxprune.__version__}" in told


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fxprune sp", ["speedup", "spec"]),
        ("fxprune spec s", ["show", "schema"]),
        ("fxprune prune --call", ["--callbacks"]),
    ],
)
def test_completion_loads_no_torch(words: str, offered: list[str]) -> None:
    asked = {"_FXPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": words}
    asked["COMP_CWORD"] = str(len(words.split()) - 1)
    *told, modules = process(COMPLETION, **asked).splitlines()
    assert HEAVY & {*json.loads(modules)} == set()
    assert told == offered


def test_an_interrupt_is_status_130(
    monkeypatch: pytest.MonkeyPatch, command: Callable[..., Done]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "load", interrupted)
    assert command("inspect", "net.pt2").status == 130
