"""What is loaded when: each thing when it is first needed. `sys.modules` tells, not the time."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fxprune

ROOT = Path(fxprune.__file__).parent.parent
NAMES = [
    *("FineTune", "FxpruneError", "Plan", "Report", "SlimModule", "Spec", "analyze", "apply"),
    *(
        "export_onnx",
        "forecast",
        "load",
        "load_pretrained",
        "prune",
        "prune_checkpoint",
        "prune_family",
        "repair",
        "run",
        "save",
        "save_pretrained",
        "speedup",
    ),
]
ONNX = {"onnx", "onnxruntime", "onnxscript", "onnx_graphsurgeon"}
COMPILER = {"torch._dynamo", "torch._inductor", "torch.export._trace", "sympy"}
TORCH = {"torch", "numpy", "scipy", "safetensors"}
OPTIONAL = {"optuna", "matplotlib"}

CALLS = """
import torch, fxprune
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
x = torch.randn(2, 8)
fxprune.prune(model, {"objective": {"macs": 0.5}}, x)
fxprune.run(model, "couple,score,allocate{ratio=0.5},shrink", x)
fxprune.analyze(model, x)
fxprune.speedup(model, x)
"""
# script -> what it must not have loaded in the end
LATE = {
    "import fxprune": TORCH | COMPILER | ONNX | OPTIONAL,
    "import fxprune; dir(fxprune); fxprune.__version__": TORCH | COMPILER | ONNX | OPTIONAL,
    "from fxprune import FxpruneError": TORCH | COMPILER | ONNX | OPTIONAL,
    "from fxprune import *": COMPILER | ONNX | OPTIONAL,
    CALLS: ONNX | OPTIONAL,
}


def loaded(script: str, **environment: str) -> set[str]:
    """Return the names of the modules that a process has loaded when a script ends."""
    told = "import atexit, json, sys\natexit.register(lambda: print(json.dumps([*sys.modules])))\n"
    done = subprocess.run(
        [sys.executable, "-c", told + script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return {*json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("script", LATE)
def test_what_is_not_needed_is_not_loaded(script: str) -> None:
    assert loaded(script) & LATE[script] == set()


def test_all_faces_can_be_loaded_at_once() -> None:
    assert loaded("import fxprune", EAGER_IMPORT="1") >= {"onnx", "onnxruntime"}


# ---- the names -----------------------------------------------------------------------------------


def test_the_public_names() -> None:
    assert fxprune.__all__ == NAMES
    assert dir(fxprune) == NAMES
    modules = {module.name for module in pkgutil.iter_modules(fxprune.__path__)}
    assert modules & {*NAMES} == set()  # else importing one would hide the function of that name
    with pytest.raises(AttributeError):
        fxprune.nothing
    with pytest.raises(ImportError):
        from fxprune import nothing  # noqa: F401


def test_modules_are_there_without_an_import_of_their_own() -> None:
    script = "import fxprune; print(fxprune.errors.InputError.__name__, fxprune.targets.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "InputError fxprune.targets\n", done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_one_thing(name: str) -> None:
    found = getattr(fxprune, name)
    assert found.__name__ == name
    assert getattr(importlib.import_module(found.__module__), name) is found
    assert pickle.loads(pickle.dumps(found)) is found


@pytest.mark.parametrize("face", ["onnx", "spec", "latency", "latency.kernels"])
def test_every_name_of_a_late_face_is_there(face: str) -> None:
    module = importlib.import_module(f"fxprune.{face}")
    assert module.__all__
    assert all(hasattr(module, name) for name in module.__all__)
