"""fxprune prune --sweep: its files, all or none, and for all that is wrong one line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import fxprune
import fxprune.api
from fxprune.cli import family as family_cli
from fxprune.cli.family_plot import plot
from fxprune.errors import FileError
from fxprune.loop import Family
from tests.support.command import Done
from tests.support.noise import noise
from tests.support.told_clock import ToldClock, network

X = (noise(2, 3, 8, 8),)


pytestmark = pytest.mark.usefixtures("told_clock")
Run = Callable[..., Done]
SPEC = 'metric = "l2"\n[objective]\n'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Run) -> Run:
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network(), X, dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "net.pt2")
    (tmp_path / "spec.toml").write_text(SPEC + "macs = 0.5\n")
    (tmp_path / "time.toml").write_text(SPEC + 'latency = 0.5\ndevice = "clock"\n')
    (tmp_path / "steps.toml").write_text('schedule = "agp"\n' + SPEC + "macs = 0.5\n")
    (tmp_path / "calls.py").write_text(
        "def evaluate(module): return float(sum(p.numel() for p in module.parameters()))\n"
    )
    monkeypatch.chdir(tmp_path)
    return partial(command, "prune", "net.pt2")


def sweep(spec: str, goals: str, output: str, *more: str) -> tuple[str, ...]:
    return ("--spec", spec, "--sweep", goals, "-o", output, *more)


def made() -> list[str]:
    given = {"net.pt2", "spec.toml", "time.toml", "steps.toml", "calls.py", "__pycache__"}
    return sorted(path.name for path in Path().iterdir() if path.name not in given)


def test_files_of_onnx(run: Run) -> None:
    status, out, err = run(*sweep("spec.toml", "0.8,0.4", "slim.onnx", "--callbacks", "calls.py"))
    assert status == 0, err
    assert made() == ["slim-0.4.onnx", "slim-0.8.onnx", "slim.json", "slim.svg"]
    data = json.loads(Path("slim.json").read_text())
    assert data["timed_on"] == "ort-cpu, 1 thread, batch 1"
    assert [row["file"] for row in data["members"]] == ["slim-0.8.onnx", "slim-0.4.onnx"]
    for row in data["members"]:
        weights = onnx.load(row["file"]).graph.initializer
        assert sum(max(1, torch.Size(one.dims).numel()) for one in weights) <= row["parameters"] + 9
        assert row["score"] == row["parameters"]
    assert ET.parse("slim.svg").getroot().tag.endswith("svg")
    for text in ("wrote slim-0.8.onnx (", "wrote slim.svg (", "original", "Pareto front"):
        assert text in out
    assert all(line.startswith("fxprune: ") for line in err.splitlines())
    assert "fxprune: 0.4: step 1" in err


def test_files_of_pt2_and_a_png(run: Run) -> None:
    options = ("--plot", "front.png", "--quiet")
    status, out, err = run(*sweep("spec.toml", "0.8,0.4", "slim.pt2", *options))
    assert (status, err) == (0, "")
    assert made() == ["front.png", "slim-0.4.pt2", "slim-0.8.pt2", "slim.json"]
    assert Path("front.png").read_bytes().startswith(b"\x89PNG")
    again = fxprune.load("slim-0.4.pt2")
    assert again.plan.spec["objective"] == {"macs": 0.4}
    assert again.report.macs_after == pytest.approx(0.4 * again.report.macs_before, rel=0.01)
    assert " ms " not in out


def test_without_matplotlib_the_rest_is_written(run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr(family_cli, "can_plot", lambda: False)
    status, out, err = run(*sweep("spec.toml", "0.8", "slim.pt2", "--quiet"))
    assert (status, err) == (0, "")
    assert made() == ["slim-0.8.pt2", "slim.json"]
    assert [line for line in out.splitlines() if "matplotlib" in line] == [
        "note: matplotlib is not installed, so no plot is drawn; pip install fxprune[plot]"
    ]


def test_a_latency_that_is_missed_ends_with_three(run: Run, told_clock: ToldClock) -> None:
    told_clock.power, told_clock.floor = 0.0, 1.0  # as long for all
    status, out, err = run(*sweep("time.toml", "0.6,0.5", "slim.pt2", "--quiet"))
    assert status == 3
    assert made() == ["slim-0.5.pt2", "slim-0.6.pt2", "slim.json", "slim.svg"]
    assert [line.startswith("fxprune: error: objective: latency") for line in err.splitlines()] == [
        True,
        True,
    ]
    assert "NO" in out


def test_a_latency_that_is_met(run: Run) -> None:
    status, out, _ = run(*sweep("time.toml", "0.8,0.5", "slim.pt2"))
    assert status == 0
    assert [row["met"] for row in json.loads(Path("slim.json").read_text())["members"]] == [
        True,
        True,
    ]
    assert "asked ms" in out


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no numbers": (sweep("spec.toml", "a,b", "o.pt2"), '--sweep "a,b": not a list of numbers'),
    "an empty one": (sweep("spec.toml", "0.5,", "o.pt2"), '--sweep "0.5,": not a list of numbers'),
    "too much": (sweep("spec.toml", "0.5,2", "o.pt2"), "sweep.macs: 2.0: input should be less"),
    "twice": (sweep("spec.toml", "0.5,.5", "o.pt2"), "sweep: 0.5 stands there twice"),
    "one file": (sweep("spec.toml", "0.5,0.50000001", "o.pt2"), "the same to six digits"),
    "in steps": (sweep("steps.toml", "0.5", "o.pt2"), "sweep: agp prunes in steps"),
    "out of reach": (sweep("spec.toml", "0.8,0.0001", "o.pt2"), "sweep: 0.0001: objective.macs"),
    "another plot": (
        sweep("spec.toml", "0.5", "o.pt2", "--plot", "o.pdf"),
        "o.pdf: a plot's name must end in .svg or .png",
    ),
    "no folder": (
        sweep("spec.toml", "0.5", "o.pt2", "--plot", "no/o.svg"),
        "no/o.svg: cannot be written: there is no folder",
    ),
    "a plot alone": (("--spec", "spec.toml", "-o", "o.pt2", "--plot", "o.svg"), "give --sweep too"),
    "a checkpoint": (
        sweep("spec.toml", "0.5", "o.pt2", "--checkpoint", "state"),
        "--checkpoint: a sweep keeps none",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_and_status_two(run: Run, name: str) -> None:
    arguments, said = WRONG[name]
    status, out, err = run(*arguments, "--quiet")
    assert (status, out, made()) == (2, "", [])
    assert err.startswith("fxprune: error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("at", ["second model", "table", "plot"])
def test_a_failed_write_leaves_all_as_it_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    old = ["slim-0.4.pt2", "slim-0.8.pt2", "slim.json", "slim.svg"]
    for name in old:
        Path(name).write_text("old")
    save, calls = fxprune.api.save, list[Any]()

    def full(*given: Any) -> None:
        calls.append(given)
        if at != "second model" and len(calls) <= 2:
            return save(*given)
        if at == "second model" and len(calls) == 1:
            return save(*given)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fxprune.api, "save", full)
    if at == "table":
        monkeypatch.setattr(Family, "to_json", lambda self: full())
    if at == "plot":
        monkeypatch.setattr(family_cli, "plot", full)
    status, out, err = run(*sweep("spec.toml", "0.8,0.4", "slim.pt2", "--quiet"))
    assert (status, out) == (2, "")
    assert "No space left on device" in err
    assert made() == old
    assert {Path(name).read_text() for name in old} == {"old"}


@pytest.mark.parametrize("name", ["x.pdf", "x"])
def test_a_plot_of_another_format(name: str, tmp_path: Path) -> None:
    found = fxprune.prune_family(network(), {"objective": {"macs": 0.5}}, X, sweep=[0.5])
    with pytest.raises(FileError, match=r"must end in \.svg or \.png"):
        plot(found, tmp_path / name)
