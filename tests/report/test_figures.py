"""Figures for papers: labelled, undated, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import FileError, SpecError
from fxprune.report import figures
from tests.support.command import Done

pytest.importorskip("matplotlib")
X = (torch.zeros(4, 8),)


@pytest.fixture(scope="module")
def slim() -> fxprune.SlimModule:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
    model.append(nn.Linear(16, 4))
    spec = {"metric": "obs", "objective": {"macs": 0.5}}
    return fxprune.prune(model.eval(), spec, X, calibrate=[(torch.randn(16, 8),)])


LABELS = {
    "widths": "units of the target",
    "scores": "score of a unit",
    "curves": "lost (loss)",
    "repair": "squared error",
    "time": "seconds",
}


@pytest.mark.parametrize("figure", LABELS)
def test_a_figure_says_what_it_shows(
    figure: str, slim: fxprune.SlimModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text stays text
    place = tmp_path / "one.svg"
    slim.report.plot(figure, place)
    text = place.read_text(encoding="utf-8")
    assert LABELS[figure] in text
    assert "Sequential: objective macs 0.5 · metric obs" in text
    slim.report.plot(figure, tmp_path / "two.svg")
    assert (tmp_path / "two.svg").read_bytes() == place.read_bytes()  # nothing says when


def test_every_figure_is_tried_or_refused(slim: fxprune.SlimModule, tmp_path: Path) -> None:
    assert set(LABELS) | {"latency"} == set(figures.FIGURES)
    with pytest.raises(FileError, match="no latency was asked for"):
        slim.report.plot("latency", tmp_path / "one.png")
    with pytest.raises(SpecError, match='did you mean "widths"'):
        slim.report.plot("width", tmp_path / "one.png")
    with pytest.raises(FileError, match=r"\.svg"):
        slim.report.plot("widths", tmp_path / "one.bmp")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_pages_and_figures(
    slim: fxprune.SlimModule, tmp_path: Path, command: object
) -> None:
    run = command
    assert callable(run)
    fxprune.save(slim, tmp_path / "slim.pt2")
    for name in ("report.html", "widths.png"):
        done: Done = run("report", str(tmp_path / "slim.pt2"), "-o", str(tmp_path / name))
        assert done.status == 0
        assert (tmp_path / name).stat().st_size > 1000
    done = run("report", str(tmp_path / "slim.pt2"), "-o", str(tmp_path / "one.bmp"))
    assert done.status == 2
