"""What is installed: the package alone, under no name that a user's own files may have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fxprune

ROOT = Path(fxprune.__file__).parent.parent
SOURCES = ("fxprune", "passes", "pyproject.toml", "README.md", "LICENSE")

SCRIPT = """
import torch
import fxprune

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
x = torch.randn(2, 8)
spec = {"metric": "l2", "allocation": "uniform", "objective": {"ratio": 0.5}}
for slim in (
    fxprune.run(model, "couple,score,allocate{ratio=0.5},shrink,restore,verify", x),
    fxprune.prune(model, spec, x),
):
    print(slim.get_submodule("0").out_features)
try:
    import passes
except RuntimeError as error:
    print(error)
"""
HOSTILE = 'raise RuntimeError("these are not those of fxprune")\n'


@pytest.mark.parametrize(
    "files", [("passes.py",), ("passes/__init__.py", "passes/couple.py")], ids=["file", "folder"]
)
def test_passes_of_somebody_else_stand_beside_a_script(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(HOSTILE)
    (tmp_path / "script.py").write_text(SCRIPT)
    installed = tmp_path / "installed"  # the package alone: a folder passes lies beside it in ROOT
    installed.mkdir()
    (installed / "fxprune").symlink_to(ROOT / "fxprune")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["8", "8", "these are not those of fxprune"], done.stderr


# ---- the wheel -----------------------------------------------------------------------------------


def built(sources: Path, what: str) -> Path:
    """Return the wheel or the sdist of a folder, made by its build backend with no network."""
    script = f"from setuptools import build_meta as b; print(b.build_{what}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=sources, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return sources / "dist" / done.stdout.splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, but for the one that lists them."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: archive.read(name) for name in names}


def test_the_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    kept = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=kept)
        else:
            shutil.copy(ROOT / name, checkout / name)
    found = contents(built(checkout, "wheel"))
    tops = {name.split("/")[0] for name in found}
    assert tops == {"fxprune", f"fxprune-{fxprune.__version__}.dist-info"}
    sources = [one for one in (checkout / "fxprune").rglob("*") if one.is_file()]
    sources += [checkout / "fxprune" / "passes" / p.name for p in (checkout / "passes").iterdir()]
    wanted = {str(one.relative_to(checkout)) for one in sources}
    assert wanted == {name for name in found if name.startswith("fxprune/")}
    for name in ("py.typed", "__init__.pyi", "passes/couple.py", "spec/presets/l2.toml"):
        assert f"fxprune/{name}" in wanted
    shutil.unpack_archive(built(checkout, "sdist"), tmp_path / "unpacked")
    (again,) = (tmp_path / "unpacked").iterdir()
    assert contents(built(again, "wheel")) == found
