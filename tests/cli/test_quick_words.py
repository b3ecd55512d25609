"""Quick words: what they mean alone, on top of a file or a preset, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from fxprune.cli.quick_words import spec_of
from fxprune.errors import SpecError
from fxprune.spec import Spec

FILE = """
target = {kind = "channel", max_ratio = 0.75}
metric = {name = "lamp", normalize = "mean"}
objective = {params = 0.9}
schedule = {name = "agp", steps = 4}
"""

MEANT: dict[str, tuple[str | None, dict[str, Any], dict[str, Any]]] = {
    "a goal": (None, {"macs": 0.5}, {"objective": {"macs": 0.5}}),
    "a metric": (
        None,
        {"params": 0.5, "metric": "l1", "target": "head"},
        {"objective": {"params": 0.5}, "metric": "l1", "target": "head"},
    ),
    "a time": (
        None,
        {"latency": "8 ms", "device": "ort-cpu", "threads": 2},
        {"objective": {"latency": "8 ms", "device": "ort-cpu", "threads": 2}},
    ),
    "a share of the time": (None, {"latency": "0.5"}, {"objective": {"latency": 0.5}}),
    "steps": (
        None,
        {"macs": 0.5, "schedule": "agp", "steps": 3, "round_to": 8},
        {
            "objective": {"macs": 0.5},
            "schedule": {"name": "agp", "steps": 3},
            "allocation": {"round_to": 8},
        },
    ),
    "patterns": (
        None,
        {"macs": 0.5, "include": ["a.*"], "exclude": ["b", "c"]},
        {"objective": {"macs": 0.5}, "target": {"include": ["a.*"], "exclude": ["b", "c"]}},
    ),
    "another goal than a preset's": (
        "agp",
        {"macs": 0.25},
        {"preset": "agp", "objective": {"macs": 0.25}},
    ),
    "another goal than the file's": (
        "spec.toml",
        {"macs": 0.25},
        {
            "target": {"kind": "channel", "max_ratio": 0.75},
            "metric": {"name": "lamp", "normalize": "mean"},
            "schedule": {"name": "agp", "steps": 4},
            "objective": {"macs": 0.25},
        },
    ),
    "another metric, whose options are not the file's": (
        "spec.toml",
        {"metric": "l1"},
        {
            "target": {"kind": "channel", "max_ratio": 0.75},
            "metric": "l1",
            "schedule": {"name": "agp", "steps": 4},
            "objective": {"params": 0.9},
        },
    ),
    "another number of steps, and something left out": (
        "spec.toml",
        {"steps": 2, "exclude": ["x"]},
        {
            "target": {"kind": "channel", "max_ratio": 0.75, "exclude": ["x"]},
            "metric": {"name": "lamp", "normalize": "mean"},
            "schedule": {"name": "agp", "steps": 2},
            "objective": {"params": 0.9},
        },
    ),
}


@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spec.toml").write_text(FILE)
    given, words, meant = MEANT[name]
    assert spec_of(given, words).to_dict() == Spec.of(meant).to_dict()


REFUSED: dict[str, tuple[str | None, dict[str, Any], type[Exception], str]] = {
    "nothing": (None, {}, typer.BadParameter, "give --spec, or a goal"),
    "no goal": (None, {"metric": "l1"}, typer.BadParameter, "such as --macs 0.5"),
    "two goals": (None, {"macs": 0.5, "params": 0.5}, SpecError, "--params, --macs: give one"),
    "a device of no latency": ("l1", {"device": "ort-cpu"}, SpecError, "--device: goes with"),
    "a name": (None, {"macs": 0.5, "metric": "l7"}, SpecError, 'unknown metric "l7"'),
    "a kind over several selections": (
        "several.toml",
        {"target": "head"},
        SpecError,
        "has several selections",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    several = 'target = [{kind = "head"}, {kind = "hidden"}]\nobjective = {macs = 0.5}\n'
    Path("several.toml").write_text(several)
    given, words, error, said = REFUSED[name]
    with pytest.raises(error, match=said):
        spec_of(given, words)
