"""Named tuples come back from a file: here as they are, elsewhere where the file is trusted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError

MODULE = """
from typing import NamedTuple

import torch
from torch import nn


class Found(NamedTuple):
    score: torch.Tensor
    rest: dict


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        y = self.b(self.a(x).relu())
        return Found(y, {"more": (y + 1, None, 3)})
"""
ELSEWHERE = """
import fxprune, torch
from fxprune.errors import UntrustedFileError
try:
    fxprune.load("slim.pt2")
except UntrustedFileError as error:
    print(error)
print(type(fxprune.load("slim.pt2", trust=True)(torch.randn(3, 8))))
"""


def elsewhere(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, in a folder."""
    where = os.environ | {"PYTHONPATH": str(Path(fxprune.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=where, capture_output=True, text=True, check=False
    )


def test_a_file_holds_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_of_names.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    from model_of_names import Found, Net  # type: ignore[import-not-found]

    slim = fxprune.prune(Net().eval(), {"objective": {"macs": 0.5}}, (torch.randn(2, 8),))
    fxprune.save(slim, tmp_path / "slim.pt2")
    x = torch.randn(3, 8)
    here = fxprune.load(tmp_path / "slim.pt2")(x)
    assert isinstance(here, Found)
    assert torch.equal(here.rest["more"][0], slim(x).rest["more"][0])
    refused, loaded = elsewhere(ELSEWHERE, tmp_path).stdout.splitlines()
    assert "the named tuple 'model_of_names:Found' is not imported; give --trust" in refused
    assert loaded == "<class 'model_of_names.Found'>"
    (tmp_path / "model_of_names.py").unlink()
    failed = elsewhere(ELSEWHERE, tmp_path)
    assert FileError.__name__ in failed.stderr
    assert "make it importable" in failed.stderr


class Says(nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:  # type: ignore[override]
        return super().forward(x), "fine"


def test_a_text_is_refused_before_a_file_appears(tmp_path: Path) -> None:
    slim = fxprune.run(Says(8, 4).eval(), "restore", (torch.randn(2, 8),))
    with pytest.raises(FileError, match=r"returns the text 'fine', which a \.pt2 cannot hold"):
        fxprune.save(slim, tmp_path / "slim.pt2")
    assert not list(tmp_path.iterdir())
